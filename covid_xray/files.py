"""Files that a kill leaves whole, and files that one process holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

with contextlib.suppress(ImportError):  # not on Windows
    import fcntl


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a draft to be written; it takes the name ``path`` when it is whole, and is removed where writing failed.

    So a kill leaves the old file or the new one, never half of one.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes, by way of `beside`."""
    with atomic_write(path) as draft:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def lock(file: Path) -> IO[str] | None:
    """Take a file for this process: until the result is closed or the process ends, however it ends.

    Returns:
        The open file; None if another process has it. Where the file system knows no locks, nobody ever has.
    """
    opened = file.open("a")
    if "fcntl" not in globals():
        return opened
    try:
        # Of the process alone: unlike flock's, loader workers that outlive a killed process do not keep it.
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        opened.close()
        return None
    except OSError:
        return opened
    return opened
