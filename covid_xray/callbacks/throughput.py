"""How fast training runs, and how long it waits for data."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from covid_xray.module import XrayClassifier

SHORT_EPOCH = 10.0  # seconds


class Throughput(Callback):
    """Logs ``images_per_second`` and ``data_wait_share`` (of the step's time) at every step.

    Args:
        warn_above: Warn once per epoch where training waited for data more than this share of the time; not in epochs
            of seconds, whose first batches decide.
    """

    def __init__(self, warn_above: float = 0.1) -> None:
        self.warn_above = warn_above
        self._waiting_since = self._epoch_start = time.perf_counter()
        self._waited = self._waited_now = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to wait for the first batch, whose loading (workers starting) does not count."""
        self._waiting_since = 0.0
        self._waited = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch has come."""
        now = time.perf_counter()
        if not self._waiting_since:
            self._waiting_since = self._epoch_start = now
        self._waited_now = now - self._waiting_since
        self._waited += self._waited_now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step's figures."""
        assert isinstance(pl_module, XrayClassifier)
        now = time.perf_counter()
        step = max(now - self._waiting_since, 1e-9)
        images = pl_module.schedule.at(trainer.current_epoch).phase.batch_size
        pl_module.log("images_per_second", images / step)
        pl_module.log("data_wait_share", self._waited_now / step)
        self._waiting_since = now
        seconds = now - self._epoch_start
        if batch_idx + 1 == trainer.num_training_batches and seconds > SHORT_EPOCH:
            share = self._waited / seconds
            if share > self.warn_above:
                rank_zero_warn(
                    f"epoch {trainer.current_epoch + 1}: training waited for data {share:.0%} of the time; "
                    f"raise data.num_workers or use smaller originals"
                )
