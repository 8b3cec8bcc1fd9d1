"""Bounded reads, atomic and durable writes, failures to write in one sentence, and file locks."""

import contextlib
import errno
import io
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from covid_xray.errors import UserError


def read_bytes(file: Path, limit: int) -> bytes:
    """Read a small file that may come from anyone.

    Args:
        file: The file.
        limit: Largest size in bytes.

    Raises:
        UserError: If it is missing, no regular file (opening a pipe would block), or larger than the limit.
    """
    try:
        if not file.is_file():
            raise UserError(f"{file} {'is no regular file' if file.exists() else 'does not exist'}; restore it")
        if (size := file.stat().st_size) > limit:
            raise UserError(f"{file} has {size:,} bytes; the limit is {limit:,}; restore it")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None


def read_text(file: Path, limit: int) -> str:
    """Read a small text file that may come from anyone.

    Args:
        file: The file.
        limit: Largest size in bytes.

    Raises:
        UserError: If it is missing, no regular file (opening a pipe would block), larger than the limit, or not UTF-8.
    """
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(file, limit)), encoding="utf-8").read()
    except UnicodeError:
        raise UserError(f"{file} is damaged (it is not UTF-8 text); restore it") from None


_LOCK_SECONDS = 0.2  # between two attempts to get a lock
_POSITION = threading.Lock()  # where a system cannot read at an offset, threads share a file's position
# A full or read-only disk, or a limit of the size of a file.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)
_NO_MEMORY = re.compile("can(no|')t allocate|failed to map segment|can't start new thread", re.IGNORECASE)


def spreadsheet_text(text: str) -> str:
    """A cell of a CSV file: with an apostrophe before text that a spreadsheet would run as a formula.

    Text that has apostrophes before such a formula gets one more, so that `original_text` restores every text.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original_text(cell: str) -> str:
    """The text that `spreadsheet_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and spreadsheet_text(cell[1:]) == cell else cell


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` on success and is removed on failure.

    A process that is killed, or a machine that loses power, leaves the old file or the new one, never half of one.
    The temporary name is unique, so that two processes may write the same file at the same time.

    Raises:
        UserError: If the file cannot be written.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield draft
        replace_durably(draft, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_failure(path, error) from error
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes with `atomic_write`."""
    with atomic_write(path) as draft:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def replace_durably(draft: Path, path: Path) -> None:
    """Give a file its final name, after its content is on the disk; then write the folder's entry to the disk."""
    sync(draft)
    draft.replace(path)
    with contextlib.suppress(OSError):  # some file systems, and Windows, cannot sync a folder
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def resource_errors(path: Path) -> Iterator[None]:
    """Turn the exception of a full or read-only disk, of a path that no disk can have, or of too little memory.

    Args:
        path: Named in the sentence if the exception names no file.

    Raises:
        UserError: If the disk is full or read-only, a path is too long, or the memory does not suffice. A `UserError`
            that came first is raised instead: what follows it, such as a logger that cannot write its last lines, is
            not the cause.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        chain = list(error_chain(error))
        cause = next((link for link in chain if _lacks_memory(link) or _lacks_disk(link)), None)
        if cause is None:
            raise
        if (earlier := next((link for link in chain[1:] if isinstance(link, UserError)), None)) is not None:
            raise earlier from None
        if isinstance(cause, OSError) and not _lacks_memory(cause):
            raise write_failure(Path(cause.filename or path), cause) from error
        raise UserError(
            "the machine has too little memory for this; use a smaller batch size or image size, or fewer loader "
            "workers or threads"
        ) from error


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that were handled when it was raised, such as the first of two in ``with``."""
    while error is not None:
        yield error
        error = error.__context__


def _lacks_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (*DISK_ERRORS, errno.ENAMETOOLONG)


def _lacks_memory(error: BaseException) -> bool:
    # torch has no class of its own for the memory of the machine; an import that fails so lacks memory, too.
    number = error.errno if isinstance(error, OSError) else None
    known = isinstance(error, OSError | RuntimeError | ImportError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or number == errno.ENOMEM or bool(known)


def write_failure(path: Path, error: OSError) -> UserError:
    """The sentence for a file that cannot be written: where, why, and how much space is free."""
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{str(path)[:100]}... is too long for the path of a file; use a shorter one")
    folder = next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), Path.cwd())
    free = shutil.disk_usage(folder).free / 1e6
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room and run the same command again" if full else "choose a folder that can be written"
    return UserError(f"{path} cannot be written: {error.strerror or error} ({free:,.0f} MB free); {advice}")


def lock(file: Path) -> IO[str] | None:
    """Lock a file for this process, until the result is closed or the process ends.

    Returns:
        The open file, or None if another process holds the lock. A file system without locks never refuses.
    """
    opened = file.open("a", encoding="utf-8")
    # A lock of the process: loader workers that outlive a killed process do not keep it, as they would with flock.
    if _take_lock(opened, "lockf"):
        return opened
    opened.close()
    return None


@contextlib.contextmanager
def waiting_lock(file: Path, what: str) -> Iterator[None]:
    """Hold a lock; wait for a process that holds it, and print that this one waits.

    Args:
        file: The lock file; its folder must exist.
        what: What the other process does, as in ``waiting for another process that <what>``.
    """
    with file.open("a", encoding="utf-8") as opened:
        if not _take_lock(opened, "flock"):
            print(f"Waiting for another process that {what}")
            while not _take_lock(opened, "flock"):
                time.sleep(_LOCK_SECONDS)
        yield


def _take_lock(opened: IO[str], function: str) -> bool:
    """Lock an open file, with a function of fcntl or, on Windows, with msvcrt; False if another process holds it."""
    try:
        try:
            fcntl: Any = import_module("fcntl")
        except ImportError:
            msvcrt: Any = import_module("msvcrt")
            opened.seek(0)  # the lock is on the byte at this position
            msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            getattr(fcntl, function)(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read bytes of an open file at an offset, from any thread; fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _POSITION:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all bytes into an open file at an offset, from any thread."""
    while data:
        if hasattr(os, "pwrite"):
            done = os.pwrite(descriptor, data, offset)
        else:
            with _POSITION:
                os.lseek(descriptor, offset, os.SEEK_SET)
                done = os.write(descriptor, data)
        data, offset = data[done:], offset + done
