"""Freezes and unfreezes layer groups."""

from lightning import Callback, LightningModule, Trainer

from covid_xray.networks.layer_groups import freeze_for
from covid_xray.training.module import XrayClassifier


class PhaseFreezing(Callback):
    """Freezes and unfreezes layer groups as the schedule gives.

    Not a `BaseFinetuning`: that one freezes in `setup`, before DDP wraps the model, so that layers unfrozen later are
    never synchronised (Lightning issue 20340), and forgets `requires_grad` on resume (issue 21901). Here the state is
    set again from the epoch, in two hooks, because a restart within an epoch skips `on_train_epoch_start`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the state after a start or a resume."""
        self._freeze(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the state for the epoch that begins."""
        self._freeze(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the state again, because validation changes the training mode of modules."""
        if trainer.state.fn == "fit":
            self._freeze(trainer, pl_module)

    @staticmethod
    def _freeze(trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, XrayClassifier)
        phase = pl_module.schedule.at(trainer.current_epoch).phase
        freeze_for(phase, pl_module.network.layer_groups())
