"""A DataLoader that measures the time spent waiting for batches, and workers that fit into shared memory."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from covid_xray.errors import UserError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 where Linux keeps the batches of loader workers
PREFETCH = 2  # batches that a worker holds ready
TIMEOUT = 600  # seconds to wait for a batch of the workers
_ADVICE = "set datamodule.num_workers=0, or give more shared memory (Docker: --shm-size=2g)"


class TimedLoader(DataLoader[tuple[Any, int]]):
    """A `torch.utils.data.DataLoader` that measures waiting time, and notices dead workers.

    The time is measured here and not around the step, because a GPU still computes when Python has moved on: most of
    the time between two steps is then computing time.

    Attributes:
        waited: Seconds that callers have waited for batches, so far.
    """

    waited: float = 0.0

    def __init__(self, dataset: Dataset[Any], *, num_workers: int = 0, **settings: Any) -> None:
        if num_workers:
            settings |= {"timeout": TIMEOUT, "prefetch_factor": PREFETCH}
        super().__init__(dataset, num_workers=num_workers, **settings)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches.

        Raises:
            UserError: If a worker died, or none delivers a batch within `TIMEOUT` seconds.
        """
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                text = str(error)
                if sentence := worker_failure(error):
                    raise UserError(sentence) from error
                if "shared memory" in text or "/torch_" in text:
                    raise UserError(f"shared memory is full ({text.splitlines()[-1]}); {_ADVICE}") from error
                raise
            finally:
                self.waited += time.perf_counter() - start
            yield batch


def worker_failure(error: BaseException) -> str:
    """The sentence for torch's exception about workers that died or stopped; empty for another exception.

    torch raises it in the main thread at any moment, not only where a batch is awaited.
    """
    text = str(error)
    known = "exited unexpectedly" in text or "timed out" in text or "killed by signal" in text
    if not (isinstance(error, RuntimeError) and text.startswith("DataLoader") and known):
        return ""
    return f"the loader's workers died or stopped ({text.splitlines()[0].strip()}); {_ADVICE}"


def affordable_workers(workers: int, batch_bytes: int, processes: int = 1) -> int:
    """The number of workers, or fewer if their batches would not fit into shared memory.

    A batch that does not fit is lost, and training would wait for it forever.

    Args:
        workers: The number of workers that is asked for.
        batch_bytes: Bytes of the largest batch.
        processes: Training processes on this machine.
    """
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # no Linux
        return workers
    free = 0.9 * status.f_bavail * status.f_frsize / processes
    batch = batch_bytes + 4 * status.f_frsize  # images and labels each begin a page, in a file each
    # Besides the prefetched batches there is the one that the training step uses.
    return max(0, min(workers, int((free - batch) // (PREFETCH * batch))))
