"""Atomic writes and file locks."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

with contextlib.suppress(ImportError):  # not on Windows
    import fcntl


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` on success and is removed on failure.

    A process that is killed leaves the old file or the new one, never half of one.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes with `atomic_write`."""
    with atomic_write(path) as draft:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def lock(file: Path) -> IO[str] | None:
    """Lock a file for this process, until the result is closed or the process ends.

    Returns:
        The open file, or None if another process holds the lock. A file system without locks never refuses.
    """
    opened = file.open("a")
    if "fcntl" not in globals():
        return opened
    try:
        # A lock of the process: loader workers that outlive a killed process do not keep it, as they would with flock.
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        opened.close()
        return None
    except OSError:
        return opened
    return opened


@contextlib.contextmanager
def waiting_lock(file: Path, what: str) -> Iterator[None]:
    """Hold a lock; wait for a process that holds it, and print that this one waits.

    Args:
        file: The lock file; its folder must exist.
        what: What the other process does, as in ``waiting for another process that <what>``.
    """
    with file.open("w") as opened:
        if "fcntl" in globals():
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Waiting for another process that {what}")
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
