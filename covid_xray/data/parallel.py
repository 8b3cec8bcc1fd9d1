"""Applying a function to many files, on all cores, with progress shown."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from rich.progress import track

T = TypeVar("T")
_FEW = 200  # starting processes takes longer than reading as many images


def map_files(
    function: Callable[[str], T], files: Sequence[str], description: str, workers: int | None = None
) -> Iterator[T]:
    """Yield ``function(file)`` of every file, in order.

    Args:
        function: A function of a module, so that other processes can import it.
        files: The files.
        description: Shown before the progress bar.
        workers: Number of processes; None: the machine's cores, at most 8.
    """
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    if workers <= 1 or len(files) <= _FEW:
        yield from track(
            map(function, files), description, total=len(files), transient=True, disable=len(files) <= _FEW
        )
        return
    # Spawned, not forked: the caller may hold threads of torch or OpenCV, which a fork would freeze.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        results = pool.map(function, files, chunksize=32)
        yield from track(results, description, total=len(files), transient=True)
