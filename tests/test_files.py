"""Files are written whole, durably, and side by side; failures are one sentence."""

import errno
import os
import threading
from pathlib import Path

import pytest

from covid_xray.errors import UserError
from covid_xray.files import atomic_write, resource_errors, write_atomically


def test_two_writers_never_mix(tmp_path: Path) -> None:
    file, contents, torn = tmp_path / "file", ["a" * 7_000, "b" * 70_000], []
    write_atomically(file, contents[0])

    def write(content: str) -> None:
        for _ in range(30):
            write_atomically(file, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        torn += [text for text in [file.read_text()] if text not in contents]
    assert not torn
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_content_is_on_the_disk_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file")
        fsync(handle)

    def rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    write_atomically(tmp_path / "file", "text")
    assert events == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_failure_keeps_the_old_file_and_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=rf"{file} cannot be written: {os.strerror(number)} \([\d,]+ MB free\); "):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_missing_folder_and_leftover_draft(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/file cannot be written: No such file"):
        write_atomically(tmp_path / "none/file", "text")
    (tmp_path / "file.tmp").mkdir()
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_an_error_in_the_block_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file") as draft:
        draft.write_text(str(1 / 0))
    assert not list(tmp_path.iterdir())


def test_limits_of_the_machine_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: No space left"), resource_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match="log cannot be written"), resource_errors(tmp_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "log"))
    for use in (Path.is_file, Path.touch):
        with pytest.raises(UserError, match=r"^x{100}\.\.\. is too long for the path"), resource_errors(tmp_path):
            use(Path("x" * 5000))
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ):
        with pytest.raises(UserError, match="too little memory"), resource_errors(tmp_path):
            raise error
    for other in (FileNotFoundError(errno.ENOENT, "none"), RuntimeError("other")):
        with pytest.raises(type(other)), resource_errors(tmp_path):
            raise other


def test_an_error_that_follows_a_lack_of_memory(tmp_path: Path) -> None:
    def save() -> None:
        try:
            raise MemoryError
        finally:  # torch closes its file
            raise RuntimeError("unexpected pos 98598720 vs 98598612")

    with pytest.raises(UserError, match="too little memory"), resource_errors(tmp_path):
        save()


def test_the_first_cause_is_said(tmp_path: Path) -> None:
    def fail() -> None:
        try:
            raise UserError("the cause")
        finally:
            raise OSError(errno.ENOSPC, "what follows")

    with pytest.raises(UserError, match=r"^the cause$"), resource_errors(tmp_path):
        fail()
