"""Checks and logs image size, batch size and phase."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from covid_xray.training.module import XrayClassifier


class ProgressiveResizing(Callback):
    """Checks that every batch has the size that the schedule gives, and logs image size, batch size and phase.

    The DataModule reads the size from the schedule; this callback checks that Lightning requested the loader in time.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the Trainer's settings that the DataModule relies on."""
        assert isinstance(pl_module, XrayClassifier)
        if getattr(trainer, "reload_dataloaders_every_n_epochs", 0) != 1:
            raise ValueError("progressive resizing needs Trainer(reload_dataloaders_every_n_epochs=1)")
        pl_module.schedule.check(pl_module.group_names, trainer.world_size)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check and log."""
        assert isinstance(pl_module, XrayClassifier)
        position = pl_module.schedule.at(trainer.current_epoch)
        expected = (position.phase.batch_size // trainer.world_size, position.phase.image_size)
        if (found := (batch[0].shape[0], batch[0].shape[-1])) != expected:
            raise RuntimeError(f"epoch {trainer.current_epoch}: batch of (images, pixels) {found}, expected {expected}")
        size, batch_size = float(position.phase.image_size), float(position.phase.batch_size)
        pl_module.log_step({"image_size": size, "batch_size": batch_size, "phase": float(position.index + 1)})
