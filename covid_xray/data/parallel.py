"""Apply a function to many files on all cores, with a progress bar."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.progress import track

T = TypeVar("T")
_FEW = 200  # no progress bar for so few files


def map_files(
    function: Callable[[str], T], files: Sequence[str], description: str, workers: int | None = None
) -> Iterator[T]:
    """Yield ``function(file)`` of every file, in order.

    Uses threads, not processes: OpenCV decodes and resizes without holding Python's global lock, and a new process
    would first import everything and run an unguarded script again.

    Args:
        function: A function that may run in several threads at once.
        files: The files.
        description: Shown before the progress bar.
        workers: Number of threads; None: the machine's cores, at most 8.
    """
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(function, files)
        yield from track(results, description, total=len(files), transient=True, disable=len(files) <= _FEW)
