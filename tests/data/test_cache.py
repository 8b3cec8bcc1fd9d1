"""The store of resized images: made once by one of several processes, verified, with the pixels of the files."""

import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covid_xray.data import cache
from covid_xray.data.audit.fingerprints import fingerprint_files, pixel_digest
from covid_xray.data.cache import Images, StoredImages, open_store, read_images
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError

SIDE = 48
MAKE = """
import itertools, sys, time
from pathlib import Path
import numpy as np
from covid_xray.data import cache
from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.images.read import read_image
files = sorted(map(str, Path(sys.argv[1]).glob("*.png")))
digests = np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")
resize, number = cache.resize, itertools.count()
def slowly(image, side):
    time.sleep(float(sys.argv[3]) if next(number) < int(sys.argv[4]) else 600)
    return resize(image, side)
cache.resize = slowly
print("begins", flush=True)
cache.open_store(Path(sys.argv[2]), files, digests, 48)
"""
# Reads nothing before the file `go` exists; prints how many images it has read.
READ = """
import sys, time
from pathlib import Path
from covid_xray.data import cache
from covid_xray.data.audit import fingerprints
folder, read, read_image = Path(sys.argv[1]), [], cache.read_image
def wait_and_read(file):
    if not read:
        print("reads", flush=True)
    read.append(file)
    while not (folder / "go").exists():
        time.sleep(0.01)
    return read_image(file)
fingerprints.decode_image = lambda data, file: wait_and_read(file)
files = sorted(map(str, (folder / "images").glob("*.png")))
found = cache.read_images(files, folder / "audit", workers=1).fingerprints
print(len(read), hash(found.pixels.tobytes() + found.hash.tobytes()))
"""


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """41 images of different shapes; two of them are the same."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        shape = rng.integers(20, 200, 2)
        write_png(folder / f"{number:02d}.png", rng.integers(0, 256, shape).astype(np.uint8))
    (folder / "40.png").write_bytes((folder / "07.png").read_bytes())
    return sorted(map(str, folder.glob("*.png")))


def test_same_pixels_in_any_order(images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _check(_open(tmp_path, images), images)
    assert "40 of 40 images are resized to 48 pixels" in capsys.readouterr().out
    _check(_open(tmp_path, images[::-1]), images[::-1])
    assert capsys.readouterr().out == "", "a store must be found again for any order of the files"


def test_pickling_and_release_keep_the_pixels_of_a_part(images: list[str], tmp_path: Path) -> None:
    some = np.array([40, 3, 7, 3])
    part = pickle.loads(pickle.dumps(_open(tmp_path, images).take(some)))
    for _ in range(2):
        _check(part, [images[index] for index in some])
        part.release()
    with pytest.raises(ValueError, match="read-only"):
        part[0][:] = 0


def test_two_processes_make_one_store(images: list[str], tmp_path: Path) -> None:
    jobs = [_start(tmp_path, 0.02) for _ in range(2)]
    printed = [job.communicate(timeout=60)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("resized to" in text for text in printed) == 1
    _check(_open(tmp_path, images), images)


def test_store_of_a_killed_process_is_continued(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _start(tmp_path, 0, images=8)  # then it hangs, until it is killed
    deadline = time.monotonic() + 60
    while _done(tmp_path) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    done = _done(tmp_path)
    assert 5 <= done < 40
    _check(_open(tmp_path, images), images)
    assert f"{40 - done} of 40 images" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["pixels", "table", "seal", "truncated", "longer", "empty", "no permission"])
def test_damaged_store_is_repaired(
    images: list[str], tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _open(tmp_path, images).path
    data = bytearray(file.read_bytes())
    layout = cache.Layout(SIDE, 40)
    capsys.readouterr()
    if place in ("pixels", "table", "seal"):
        at = {"pixels": 12 * layout.square + 5, "table": layout.table + 9, "seal": layout.length - 1}[place]
        data[at] ^= 1
    else:
        data = {"truncated": data[:-3000], "longer": data + b"x"}.get(place, bytearray())
    file.write_bytes(data)
    if place == "no permission":
        file.chmod(0)
    _check(_open(tmp_path, images), images)
    printed = capsys.readouterr().out
    assert "damaged" in printed
    if place in ("pixels", "table"):
        assert "1 of 40 images" in printed


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, cache.Layout(16, 3).length - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("bits")
    files = []
    for number in range(3):
        write_png(folder / f"{number}.png", np.random.default_rng(number).integers(0, 256, (16, 16)).astype(np.uint8))
        files.append(str(folder / f"{number}.png"))
    path = _open(folder, files, 16).path
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)
    stored = _open(folder, files, 16)
    assert all(np.array_equal(stored[row], read_image(file)) for row, file in enumerate(files))


def test_changed_image_makes_another_store_and_moved_image_does_not(
    images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _open(tmp_path, images)
    before = Path(images[3]).stat()
    write_png(Path(images[3]), 255 - read_image(images[3]))
    os.utime(images[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = _open(tmp_path, images)
    assert changed.path != first.path
    _check(changed, images)
    capsys.readouterr()
    moved = Path(images[3]).rename(tmp_path / "elsewhere.png")
    images[3] = str(moved)
    assert _open(tmp_path, images).path == changed.path
    assert capsys.readouterr().out == ""


def test_change_between_digest_and_reading_is_refused(images: list[str], tmp_path: Path) -> None:
    digests = _digests(images)
    write_png(Path(images[3]), 255 - read_image(images[3]))
    with pytest.raises(UserError, match=r"03\.png has changed"):
        open_store(tmp_path / "cache", images, digests, SIDE)
    _check(_open(tmp_path, images), images)


def test_folder_that_cannot_be_written(images: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"datamodule\.cache=.*cannot be written.*datamodule\.cache=off"):
        _open(tmp_path, images)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folder(images: list[str], tmp_path: Path) -> None:
    stored = _open(tmp_path, images)
    stored.path.parent.chmod(0o555)
    _check(_open(tmp_path, images), images)
    with pytest.raises(UserError, match="Permission denied"):
        _open(tmp_path, images[:5])
    stored.path.parent.chmod(0o755)


@pytest.mark.parametrize("where", ["posix_fallocate", "pwrite"])
def test_full_disk(images: list[str], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(
            UserError, match=r"store of 0 MB cannot be written \(No space left on device; [\d,]+ MB are"
        ):
            _open(tmp_path, images)
    _check(_open(tmp_path, images), images)


def test_deleted_while_in_use(images: list[str], tmp_path: Path) -> None:
    stored = _open(tmp_path, images)
    stored.path.unlink()
    _check(stored, images)


def test_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    """Pages of the memory map count as memory of the process until they are released."""
    rng, files = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for number in range(300):
        file = tmp_path / "images" / f"{number}.png"
        cv2.imwrite(str(file), rng.integers(0, 256, (8, 8)).astype(np.uint8))
        files.append(str(file))
    stored, before, most = _open(tmp_path, files, 512), _resident(), 0
    for row in range(len(files)):
        stored[row].sum()
        if row % 10 == 9:
            most = max(most, _resident() - before)
            stored.release()
    assert most < 15e6, "300 images are 79 MB"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is decoded, for fingerprints and cache together."""
    count: Counter[str] = Counter()

    def counting(file: str) -> object:
        count[Path(file).name] += 1
        return read_image(file)

    monkeypatch.setattr("covid_xray.data.audit.fingerprints.decode_image", lambda data, file: counting(file))
    monkeypatch.setattr("covid_xray.data.cache.read_image", counting)
    return count


def test_fingerprints_and_cache_need_one_decoding(images: list[str], tmp_path: Path, reads: Counter[str]) -> None:
    first = _read(tmp_path, images)
    assert reads == {Path(file).name: 1 for file in images}
    _check_images(first, images)
    reads.clear()
    _check_images(_read(tmp_path, images[::-1]), images[::-1])
    assert not reads, "the second time, both caches have every image"


def test_file_listed_twice_is_read_once(images: list[str], tmp_path: Path, reads: Counter[str]) -> None:
    listed = [*images, *images[::2]]
    for cached in (True, False):
        found = _read(tmp_path, listed) if cached else read_images(listed)
        assert reads == {Path(file).name: 1 for file in images}
        assert found.files == tuple(listed)
        assert found.fingerprints.pixels.tolist() == _digests(listed).tolist()
        reads.clear()


@pytest.mark.parametrize("fingerprints_first", [False, True])
def test_changed_file_is_read_again(
    images: list[str], tmp_path: Path, reads: Counter[str], fingerprints_first: bool
) -> None:
    first = _read(tmp_path, images)
    write_png(Path(images[3]), 255 - read_image(images[3]))
    os.utime(images[3], ns=(1, 1))
    reads.clear()
    if fingerprints_first:
        assert fingerprint_files(images, tmp_path / "audit").pixels[3] != first.fingerprints.pixels[3]
        assert reads == {"03.png": 1}
        reads.clear()
    changed = _read(tmp_path, images)
    assert reads == {Path(file).name: 1 for file in images[:40]}, "the new store needs every image, once"
    _check_images(changed, images)
    assert not np.array_equal(_stored(changed)[3], _stored(first)[3])
    reads.clear()
    _check_images(_read(tmp_path, images), images)
    assert not reads


def test_images_are_read_again_where_the_disk_is_full(
    images: list[str], tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between fingerprints and store, the resized images are in a temporary file."""

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    _check_images(_read(tmp_path, images), images)
    # Of the two equal images, only one is resized.
    assert reads == {Path(file).name: 1 if file == images[40] else 2 for file in images}


def test_image_that_cannot_be_read_leaves_the_others(images: list[str], tmp_path: Path) -> None:
    Path(images[3]).write_bytes(b"no image")
    found = _read(tmp_path, images)
    assert found.stored is None
    assert [row for row, reason in enumerate(found.fingerprints.reason) if reason] == [3]


def test_second_process_waits_and_reads_nothing(images: list[str], tmp_path: Path) -> None:
    """Both processes read the same files with one audit cache."""
    command = [sys.executable, "-u", "-c", READ, str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert first.stdout is not None
    assert first.stdout.readline() == "reads\n"
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert second.stdout is not None
    assert second.stdout.readline() == "Waiting for another process that reads images\n"
    (tmp_path / "go").touch()
    printed = [job.communicate(timeout=60)[0].split() for job in (first, second)]
    assert [job.returncode for job in (first, second)] == [0, 0]
    assert [words[0] for words in printed] == [str(len(images)), "0"]
    assert printed[0][1] == printed[1][1], "both get the same fingerprints"


def _open(folder: Path, files: list[str], side: int = SIDE) -> StoredImages:
    return open_store(folder / "cache", files, _digests(files), side)


def _read(folder: Path, files: list[str]) -> Images:
    return read_images(files, folder / "audit", folder / "cache", SIDE)


def _stored(images: Images) -> StoredImages:
    assert images.stored is not None
    return images.stored


def _check_images(images: Images, files: list[str]) -> None:
    assert images.files == tuple(files)
    assert images.fingerprints.pixels.tolist() == _digests(files).tolist()
    _check(_stored(images), files)


def _digests(files: list[str]) -> "np.ndarray[tuple[int], np.dtype[np.bytes_]]":
    return np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")


def _check(stored: StoredImages, files: list[str]) -> None:
    assert len(stored) == len(files)
    for row, file in enumerate(files):
        assert np.array_equal(stored[row], resize(read_image(file), SIDE))
    assert not stored.path.with_suffix(".part").exists()


def _start(folder: Path, seconds: float, images: int = 1000) -> "subprocess.Popen[str]":
    arguments = [str(folder / "images"), str(folder / "cache"), str(seconds), str(images)]
    job = subprocess.Popen([sys.executable, "-c", MAKE, *arguments], stdout=subprocess.PIPE, text=True)
    return job


def _done(folder: Path) -> int:
    parts = list((folder / "cache").glob("*.part"))
    if not parts:
        return 0
    data, layout = parts[0].read_bytes(), cache.Layout(SIDE, 40)
    if len(data) != layout.length:
        return 0
    return int(np.count_nonzero(np.frombuffer(data, "<u8", 40, layout.table)))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
