"""Figures in TensorBoard: the first batch of each phase, the first layer's kernels, confusion matrices."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from covid_xray.plots.classification import confusion_matrix_figure
from covid_xray.plots.images import batch_figure
from covid_xray.training.module import XrayClassifier


class ShowBatch(Callback):
    """Draws the first batch of every phase as the network receives it: augmented, at the phase's size.

    Args:
        images: How many images to draw, at most.
    """

    def __init__(self, images: int = 12) -> None:
        self.images = images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw at a phase's first step."""
        assert isinstance(pl_module, XrayClassifier)
        position = pl_module.schedule.at(trainer.current_epoch)
        if batch_idx == 0 and position.epoch_in_phase == 0:
            pixels = pl_module.normalise(batch[0][: self.images]) * pl_module.std + pl_module.mean
            titles = [pl_module.class_names[label] for label in batch[1][: self.images].tolist()]
            figure = batch_figure(pixels[:, 0].clamp(0, 1).cpu().numpy(), titles)
            _add_figure(trainer, f"show_batch/{position.index + 1}_{position.name}", figure)


class FirstLayerFilters(Callback):
    """Draws the kernels of the first convolution at the start and at the end, as the article shows them."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pretrained kernels."""
        if trainer.global_step == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the trained kernels."""
        self._draw(trainer, pl_module)

    @staticmethod
    def _draw(trainer: Trainer, pl_module: LightningModule) -> None:
        kernels = next((p for p in pl_module.parameters() if p.ndim == 4 and p.shape[1] == 3), None)
        logger = _tensorboard(trainer)
        if kernels is not None and logger is not None:
            grid = make_grid(kernels.detach().float().cpu(), nrow=8, normalize=True, scale_each=True, padding=1)
            logger.experiment.add_image(
                "filters/first_layer", grid.repeat_interleave(8, 1).repeat_interleave(8, 2), trainer.global_step
            )


class ConfusionMatrices(Callback):
    """Draws the confusion matrix after every validation and test."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation images' matrix."""
        self._draw(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix of every test set."""
        assert isinstance(pl_module, XrayClassifier)
        for name in pl_module.test_metrics:
            self._draw(trainer, pl_module, name)

    @staticmethod
    def _draw(trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        assert isinstance(pl_module, XrayClassifier)
        figure = confusion_matrix_figure(pl_module.confusions[split].cpu().numpy(), pl_module.class_names)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is not None and datamodule.audit.leaks():
            figure.suptitle("LEAKED: images or patients in two splits", color="C3", fontsize=9)
        _add_figure(trainer, f"confusion_matrix/{split}", figure)


def _tensorboard(trainer: Trainer) -> TensorBoardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def _add_figure(trainer: Trainer, tag: str, figure: Figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if (logger := _tensorboard(trainer)) is not None and trainer.is_global_zero:
        FigureCanvasAgg(figure)
        # Lightning logs an epoch's scalars at its last step; `global_step` is already one further.
        logger.experiment.add_figure(tag, figure, max(0, trainer.global_step - 1))
