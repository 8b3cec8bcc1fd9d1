"""Logs the speed of training and the time it waits for data."""

import math
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from covid_xray.training.module import XrayClassifier

# In epochs below both limits the first batches dominate the measurement.
LEAST_SECONDS, LEAST_STEPS = 10.0, 100


class Throughput(Callback):
    """Logs ``images_per_second`` and ``data_wait_share`` (of the step's time).

    Args:
        warn_above: Warn once per epoch if training waited for data for more than this share of the time; not in epochs
            with both few seconds and few steps.
    """

    def __init__(self, warn_above: float = 0.1) -> None:
        self.warn_above = warn_above
        self._epoch_start = self._step_start = 0.0
        self._waited_before_epoch = self._waited = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset: the loading of the first batch, while workers start, does not count."""
        self._step_start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock with the first batch."""
        if not self._step_start:
            self._step_start = self._epoch_start = time.perf_counter()
            self._waited_before_epoch = self._waited = _waited(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step's metrics."""
        assert isinstance(pl_module, XrayClassifier)
        now, waited = time.perf_counter(), _waited(trainer)
        step = max(now - self._step_start, 1e-9)
        images = pl_module.schedule.at(trainer.current_epoch).phase.batch_size
        share = (waited - self._waited) / step
        pl_module.log_step({"images_per_second": images / step, "data_wait_share": share})
        self._step_start, self._waited = now, waited
        if batch_idx + 1 == trainer.num_training_batches:
            self._warn(now - self._epoch_start, trainer)

    def _warn(self, seconds: float, trainer: Trainer) -> None:
        if seconds < LEAST_SECONDS and trainer.num_training_batches < LEAST_STEPS:
            return
        share = (self._waited - self._waited_before_epoch) / seconds
        if share > self.warn_above:
            rank_zero_warn(
                f"epoch {trainer.current_epoch + 1}: training waited for data {share:.0%} of the time; "
                f"raise datamodule.num_workers or use smaller originals"
            )


def _waited(trainer: Trainer) -> float:
    """Seconds that training has waited for batches of a `TimedLoader`; nan for other loaders."""
    waited: float = getattr(trainer.train_dataloader, "waited", math.nan)
    return waited
