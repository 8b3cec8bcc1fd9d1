"""Console output of training: a progress bar, a row per epoch."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from covid_xray.schedule import Phase, Schedule
from covid_xray.training.module import XrayClassifier

# Time of a frozen training step and of a validation image, relative to an unfrozen training step. Used only to
# estimate the time left in phases that have not run yet. Measured on a CPU with ResNet-50 at 224 pixels.
FROZEN_COST, VALIDATION_COST = 0.7, 0.33


class ConsoleProgress(Callback):
    """Shows a bar per epoch with rate and time left for the whole schedule, and prints a row per epoch."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False)
        self._progress: Progress | None = None
        self._loss_sum = torch.zeros(())
        self._batches = 0
        self._epoch_start = self._last_refresh = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table's head and open the bar."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, XrayClassifier)
        network = getattr(pl_module.network, "architecture", type(pl_module.network).__name__)
        device = f"{type(trainer.accelerator).__name__.removesuffix('Accelerator')} x {trainer.world_size}"
        self.console.print(f"{network} on {device}, precision {trainer.precision}", soft_wrap=True)
        recalls = "".join(f"{name[:10]:>11}" for name in pl_module.class_names)
        head = f"{'epoch':>7}  {'phase':<15}{'px':>4}{'train loss':>12}{'val loss':>10}{'accuracy':>10}"
        title = Text.assemble((f"{head}{recalls}{'images/s':>10}{'time':>7}", "bold"), "   (recall by class)")
        self.console.print(title, soft_wrap=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._progress.start()
        self._task = self._progress.add_task("", rate="")
        self._image_counts = _image_counts(trainer)
        self._begin_epoch(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's bar."""
        self._begin_epoch(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        loss = outputs["loss"].detach()
        self._loss_sum = self._loss_sum.to(loss.device) + loss
        self._batches += 1
        now = time.perf_counter()
        if self._progress is None or now - self._last_refresh < 0.2:
            return
        self._last_refresh = now
        assert isinstance(pl_module, XrayClassifier)
        seconds = (now - self._epoch_start) / self._batches
        rate = pl_module.schedule.at(trainer.current_epoch).phase.batch_size / seconds
        left = remaining_seconds(pl_module.schedule, trainer.current_epoch, batch_idx + 1, rate, *self._image_counts)
        self._progress.update(
            self._task, completed=batch_idx + 1, rate=f"{rate:.0f} images/s, about {_clock(left)} left in all"
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that validation runs."""
        if self._progress is not None:
            self._progress.update(self._task, rate="validating")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's row."""
        if self._progress is None or not self._batches:
            return
        assert isinstance(pl_module, XrayClassifier)
        position, metrics = pl_module.schedule.at(trainer.current_epoch), trainer.callback_metrics
        recalls = "".join(f"{float(metrics[f'val/recall/{name}']):>11.3f}" for name in pl_module.class_names)
        self.console.print(
            f"{trainer.current_epoch + 1:>4}/{trainer.max_epochs:<2}  {position.name[:15]:<15}"
            f"{position.phase.image_size:>4}{float(self._loss_sum) / self._batches:>12.4f}"
            f"{float(metrics['val/loss']):>10.4f}{float(metrics['val/accuracy']):>10.4f}{recalls}"
            f"{self._rate:>10.1f}{_clock(time.perf_counter() - self._epoch_start):>7}",
            soft_wrap=True,
        )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the training rate before the time of validation is added."""
        assert isinstance(pl_module, XrayClassifier)
        if self._batches:
            batch_size = pl_module.schedule.at(trainer.current_epoch).phase.batch_size
            self._rate = batch_size * self._batches / (time.perf_counter() - self._epoch_start)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _begin_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, XrayClassifier)
        position = pl_module.schedule.at(trainer.current_epoch)
        self._loss_sum, self._batches = torch.zeros(()), 0
        self._epoch_start = time.perf_counter()
        if self._progress is not None:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            text = f"{position.name} {position.phase.image_size} px, {epoch}"
            self._progress.reset(self._task, total=int(trainer.num_training_batches), description=text, rate="")


def remaining_seconds(
    schedule: Schedule, epoch: int, batches_done: int, rate: float, n_train: int, n_val: int
) -> float:
    """Estimate the time left for the whole schedule, validation included.

    Args:
        schedule: The schedule.
        epoch: The running epoch.
        batches_done: Its finished training batches.
        rate: Training images per second in this epoch.
        n_train: Training images per epoch.
        n_val: Validation images per epoch.

    Returns:
        Seconds, taking the cost of an image as proportional to its pixels and, where frozen, to `FROZEN_COST`.
    """
    now = schedule.at(epoch).phase
    unit = 1 / (rate * _cost(now))

    def epoch_seconds(phase: Phase, images: int) -> float:
        return unit * (_cost(phase) * images + VALIDATION_COST * phase.image_size**2 * n_val)

    left = epoch_seconds(now, max(0, n_train - batches_done * now.batch_size))
    return left + sum(epoch_seconds(schedule.at(later).phase, n_train) for later in range(epoch + 1, schedule.epochs))


def _cost(phase: Phase) -> float:
    return phase.image_size**2 * (1.0 if phase.trains == "all" else FROZEN_COST)


def _image_counts(trainer: Trainer) -> tuple[int, int]:
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    counts = datamodule.counts().sum()
    return int(counts["train"]), int(counts["val"])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
