"""Put this folder on PYTHONPATH to run Python without what Windows lacks, and with new processes started by spawn.

``msvcrt`` locks with the system's own locks, so that processes exclude each other as they do on Windows.
"""

import fcntl
import multiprocessing
import os
import signal
import subprocess  # it looks for msvcrt when it is imported
import sys
from types import ModuleType

MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
FUNCTIONS = {
    os: ("fork", "getuid", "posix_fallocate", "pread", "pwrite", "sched_getaffinity", "statvfs"),
    signal: ("SIGALRM", "alarm"),
}
LK_NBLCK = 2
assert subprocess.PIPE


def locking(descriptor: int, mode: int, size: int) -> None:
    """Lock bytes from the file's position on, or raise PermissionError."""
    assert mode == LK_NBLCK
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, size, os.lseek(descriptor, 0, os.SEEK_CUR), os.SEEK_SET)
    except OSError as error:
        raise PermissionError(error.errno, error.strerror) from None


msvcrt = ModuleType("msvcrt")
msvcrt.__dict__.update(locking=locking, LK_NBLCK=LK_NBLCK)


def hide() -> None:
    """Remove the modules and functions."""
    sys.modules.update(dict.fromkeys(MODULES), msvcrt=msvcrt)  # type: ignore[arg-type]
    for module, names in FUNCTIONS.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    multiprocessing.set_start_method("spawn")


if __name__ == "sitecustomize":
    hide()
