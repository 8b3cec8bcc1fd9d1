"""The store of resized images: made once, by one of many, checked, and never a pixel different."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covid_xray.data import cache
from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.cache import StoredImages, open_store
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError

SIDE = 48
MAKE = """
import sys, time
from pathlib import Path
import numpy as np
from covid_xray.data import cache
from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.images.read import read_image
files = sorted(map(str, Path(sys.argv[1]).glob("*.png")))
digests = np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")
resize = cache.resize
def slowly(image, side):
    time.sleep(float(sys.argv[3]))
    return resize(image, side)
cache.resize = slowly
print("begins", flush=True)
cache.open_store(Path(sys.argv[2]), files, digests, 48)
"""


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Forty images of many shapes, two of them alike."""
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
    assert capsys.readouterr().out == "", "a store must be found again, whatever the order"


def test_part_of_it_survives_pickling_and_release(images: list[str], tmp_path: Path) -> None:
    some = np.array([40, 3, 7, 3])
    part = pickle.loads(pickle.dumps(_open(tmp_path, images).take(some)))
    for _ in range(2):
        _check(part, [images[index] for index in some])
        part.release()
    with pytest.raises(ValueError, match="read-only"):
        part[0][:] = 0


def test_two_processes_make_one_store(images: list[str], tmp_path: Path) -> None:
    jobs = [_start(tmp_path, 0.02) for _ in range(2)]
    said = [job.communicate(timeout=60)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("resized to" in text for text in said) == 1
    _check(_open(tmp_path, images), images)


def test_killed_one_is_continued(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _start(tmp_path, 0.2)
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
def test_damaged_one_is_mended(
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
    said = capsys.readouterr().out
    assert "damaged" in said
    if place in ("pixels", "table"):
        assert "1 of 40 images" in said


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


def test_changed_image_is_noticed_and_moved_one_found(
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
    """Pages of the map count as the process's own until they are given back."""
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


def _open(folder: Path, files: list[str], side: int = SIDE) -> StoredImages:
    return open_store(folder / "cache", files, _digests(files), side)


def _digests(files: list[str]) -> "np.ndarray[tuple[int], np.dtype[np.bytes_]]":
    return np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")


def _check(stored: StoredImages, files: list[str]) -> None:
    assert len(stored) == len(files)
    for row, file in enumerate(files):
        assert np.array_equal(stored[row], resize(read_image(file), SIDE))
    assert not stored.path.with_suffix(".part").exists()


def _start(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    arguments = [str(folder / "images"), str(folder / "cache"), str(seconds)]
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
