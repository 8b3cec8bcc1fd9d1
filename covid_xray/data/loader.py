"""A DataLoader that measures the time spent waiting for batches."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class TimedLoader(DataLoader[tuple[Any, int]]):
    """A `torch.utils.data.DataLoader` that measures waiting time.

    The time is measured here and not around the step, because a GPU still computes when Python has moved on: most of
    the time between two steps is then computing time.

    Attributes:
        waited: Seconds that callers have waited for batches, so far.
    """

    waited: float = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches."""
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - start
            yield batch
