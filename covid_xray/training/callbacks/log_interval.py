"""Chooses how often training steps are logged, so that logging takes a small share of the time."""

import statistics
import time
from itertools import pairwise
from typing import Any

from lightning import Callback, LightningModule, Trainer

# Python's time for one logged step, measured on a CPU: 4 to 5 ms.
LOG_SECONDS, MOST_OF_THE_TIME = 0.005, 0.02
INTERVALS = (1, 2, 5, 10, 20, 50)
LEAST_POINTS = 20  # logged steps of an epoch
MEASURED = 10  # steps


def log_interval(step_seconds: float, steps: int) -> int:
    """The smallest of `INTERVALS` at which logging takes at most `MOST_OF_THE_TIME`.

    It is smaller where an epoch would have fewer than `LEAST_POINTS` logged steps, because curves of short epochs need
    them and cost little.

    Args:
        step_seconds: Seconds of a training step, above 0.
        steps: Steps of an epoch.
    """
    allowed = [every for every in INTERVALS if every == 1 or every * LEAST_POINTS <= steps]
    cheap = (every for every in allowed if LOG_SECONDS / every <= MOST_OF_THE_TIME * step_seconds)
    return next(cheap, allowed[-1])


class LogInterval(Callback):
    """Sets ``log_every_n_steps`` after the first steps of a run, once; checkpoints hold the choice.

    The weights do not depend on it. Until then, every step is logged.

    Args:
        every: The number that the user chose; None: choose it.
    """

    def __init__(self, every: int | None = None) -> None:
        self.given = every
        self._chosen: int | None = None
        self._ends: list[float] = []  # times at which steps ended

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on as a checkpoint says."""
        if self._chosen is not None:
            _set_interval(trainer, self._chosen)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure anew, because there was a validation in between."""
        self._ends.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Choose after the first `MEASURED` steps of an epoch."""
        if self.given is not None or self._chosen is not None:
            return
        self._ends.append(time.perf_counter())
        if len(self._ends) > MEASURED:
            seconds = statistics.median(after - before for before, after in pairwise(self._ends))
            self._chosen = log_interval(seconds, int(trainer.num_training_batches))
            _set_interval(trainer, self._chosen)

    def state_dict(self) -> dict[str, Any]:
        """The choice, if it is made."""
        return {} if self._chosen is None else {"every": self._chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the choice over, unless the user chose."""
        if self.given is None:
            self._chosen = state_dict["every"]


def _set_interval(trainer: Any, every: int) -> None:
    trainer.log_every_n_steps = every  # Lightning declares it outside Trainer, where mypy does not see it
