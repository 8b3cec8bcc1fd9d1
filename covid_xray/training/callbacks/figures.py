"""Pictures for the loggers: the audit, the first batch of each phase, the first layer's kernels, confusion matrices."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from covid_xray.plots.audit import audit_figure
from covid_xray.plots.classification import confusion_matrix_figure
from covid_xray.plots.images import batch_figure
from covid_xray.training.loggers import log_picture
from covid_xray.training.module import XrayClassifier


class AuditFigure(Callback):
    """Draws what predicts the label of the images, after the first step of a run, which so does not wait for it."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the audit's associations."""
        if trainer.current_epoch == batch_idx == 0:
            datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
            _log(trainer, "audit/associations", audit_figure(datamodule.audit), 0)


class ShowBatch(Callback):
    """Draws the first batch of every phase as the network receives it: augmented, at the phase's size.

    Args:
        images: How many images to draw, at most.
    """

    def __init__(self, images: int = 12) -> None:
        self.images = images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw after a phase's first step, which so does not wait for the drawing."""
        assert isinstance(pl_module, XrayClassifier)
        position = pl_module.schedule.at(trainer.current_epoch)
        if batch_idx == 0 and position.epoch_in_phase == 0:
            pixels = pl_module.normalise(batch[0][: self.images]) * pl_module.std + pl_module.mean
            titles = [pl_module.class_names[label] for label in batch[1][: self.images].tolist()]
            figure = batch_figure(pixels[:, 0].clamp(0, 1).cpu().numpy(), titles)
            _log(trainer, f"show_batch/{position.index + 1}_{position.name}", figure, _last_step(trainer))


class FirstLayerFilters(Callback):
    """Draws the kernels of the first convolution at the start and at the end, as the article shows them."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pretrained kernels."""
        if trainer.global_step == 0:
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the trained kernels after the last epoch, before it is saved."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._draw(trainer, pl_module)

    @staticmethod
    def _draw(trainer: Trainer, pl_module: LightningModule) -> None:
        kernels = next((p for p in pl_module.parameters() if p.ndim == 4 and p.shape[1] == 3), None)
        if kernels is not None:
            grid = make_grid(kernels.detach().float().cpu(), nrow=8, normalize=True, scale_each=True, padding=1)
            enlarged = grid.repeat_interleave(8, 1).repeat_interleave(8, 2)
            _log(trainer, "filters/first_layer", enlarged, _last_step(trainer))


class ConfusionMatrices(Callback):
    """Draws the confusion matrix after every validation and test."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation images' matrix."""
        self._draw(trainer, pl_module, "val", _last_step(trainer))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix of every test set."""
        assert isinstance(pl_module, XrayClassifier)
        for name in pl_module.test_metrics:
            self._draw(trainer, pl_module, name, trainer.global_step)

    @staticmethod
    def _draw(trainer: Trainer, pl_module: LightningModule, split: str, step: int) -> None:
        assert isinstance(pl_module, XrayClassifier)
        figure = confusion_matrix_figure(pl_module.confusions[split].cpu().numpy(), pl_module.class_names)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is not None and datamodule.audit.leaks():
            figure.suptitle("LEAKED: images or patients in two splits", color="C3", fontsize=9)
        _log(trainer, f"confusion_matrix/{split}", figure, step)


def _log(trainer: Trainer, tag: str, picture: Figure | Tensor, step: int) -> None:
    if trainer.is_global_zero:
        log_picture(trainer.loggers, tag, picture, step)


def _last_step(trainer: Trainer) -> int:
    """The step at which Lightning logs an epoch's scalars; ``global_step`` is already one further."""
    return max(0, trainer.global_step - 1)
