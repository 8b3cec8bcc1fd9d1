"""A DataLoader that knows how long it was waited for."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class TimedLoader(DataLoader[tuple[Any, int]]):
    """A `torch.utils.data.DataLoader` with a clock.

    The clock is here and not around the step, because a GPU computes on while Python has moved on: what passes between
    two steps is then mostly computing.

    Attributes:
        waited: Seconds that whoever asked for batches has waited for them, so far.
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
