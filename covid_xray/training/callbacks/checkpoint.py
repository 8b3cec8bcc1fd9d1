"""Checkpoints for exact resume: at the end of every epoch, every few minutes, and on a stop signal."""

import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from covid_xray.errors import UserError
from covid_xray.training.module import XrayClassifier


class TrainingStopped(Exception):  # noqa: N818 not an error
    """The run received a stop signal, has saved its state and can be continued.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class RunCheckpoint(Checkpoint):
    """Keeps the last and the best checkpoint of a run; best is the lowest validation loss at the newest image size.

    Losses at another size do not count: a network is tested at the last phase's size, and the best network at a
    smaller size may be bad at a larger one.

    A checkpoint is written under another name and renamed, so that a kill leaves the old or the new file.
    Lightning's ModelCheckpoint writes through the system's temporary folder (no atomic rename across file systems),
    forgets the best score where the run folder was moved, and cannot save by time and by epoch at once.

    After SIGTERM (a spot machine is taken away) or Ctrl-C, the run saves and stops after the current step; during
    validation, after its end. A second Ctrl-C stops at once.

    Args:
        last: File of the newest state.
        best: File of the state after the best epoch.
        every_minutes: Also save within epochs after this time; None: only at the end of epochs.
    """

    def __init__(self, last: Path, best: Path, every_minutes: float | None = None) -> None:
        if every_minutes is not None and (isinstance(every_minutes, bool) or not _positive(every_minutes)):
            raise UserError(f"checkpoint.every_minutes must be a number above 0, or null, not {every_minutes!r}")
        self.last_path, self.best_path = last, best
        self.every_minutes = every_minutes
        self.best_loss = float("inf")
        self.best_size = 0
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._stop_signal = 0
        self._saved_at = 0.0
        self._old_handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Best loss and its image size, and the validation metrics of the best and the last epoch."""
        best = {"best_loss": self.best_loss, "best_size": self.best_size}
        return {**best, "best": dict(self.best), "last": dict(self.last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best_loss, self.best_size = state_dict["best_loss"], state_dict["best_size"]
        self.best, self.last = state_dict["best"], state_dict["last"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers of the stop signals."""
        self._saved_at = time.monotonic()
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[signum] = signal.signal(signum, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time or a signal came, but not after the last step of an epoch: validation must follow it."""
        if batch_idx + 1 == trainer.num_training_batches:
            return
        stop = trainer.strategy.reduce_boolean_decision(bool(self._stop_signal), all=False)
        if stop or self._is_time(trainer):
            self._save(trainer)
        if stop:
            raise TrainingStopped(self._stop_signal or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; then stop if a signal came."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.last = metrics | {"epoch": float(trainer.current_epoch)}
        assert isinstance(pl_module, XrayClassifier)
        size = pl_module.schedule.at(trainer.current_epoch).phase.image_size
        improved = size != self.best_size or metrics["val/loss"] < self.best_loss
        if improved:
            self.best_loss, self.best_size, self.best = metrics["val/loss"], size, self.last
        self._save(trainer, improved)
        stop = trainer.strategy.reduce_boolean_decision(bool(self._stop_signal), all=False)
        if stop and trainer.current_epoch + 1 != trainer.max_epochs:
            raise TrainingStopped(self._stop_signal or signal.SIGTERM)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)
        self._old_handlers = {}

    def _is_time(self, trainer: Trainer) -> bool:
        if self.every_minutes is None:
            return False
        due = time.monotonic() - self._saved_at > 60 * self.every_minutes
        return bool(trainer.strategy.reduce_boolean_decision(due, all=False))

    def _save(self, trainer: Trainer, improved: bool = False) -> None:
        draft = self.last_path.with_name("next.ckpt")
        trainer.save_checkpoint(draft)
        self._saved_at = time.monotonic()
        if not trainer.is_global_zero:
            return
        # Best first: after a kill between the two, the older last.ckpt repeats the epoch and writes the same best.ckpt
        # again, whereas a newer last.ckpt would refer to a best.ckpt that does not exist.
        if improved:
            second = self.last_path.with_name("next-best.ckpt")
            second.unlink(missing_ok=True)
            try:
                os.link(draft, second)
            except OSError:  # a file system without hard links
                shutil.copyfile(draft, second)
            second.replace(self.best_path)
        draft.replace(self.last_path)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._stop_signal and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop_signal = signum


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
