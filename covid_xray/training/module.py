"""The LightningModule: loss, metrics and optimiser around a layered network. Phases are the callbacks' business."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassRecall,
)

from covid_xray.data.datamodule import IMAGENET_MEAN, IMAGENET_STD, Batch
from covid_xray.errors import UserError
from covid_xray.networks.layer_groups import parameter_groups
from covid_xray.networks.resnet import LayeredNetwork
from covid_xray.schedule import Schedule

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class XrayClassifier(LightningModule):
    """Tells chest X-rays apart.

    Args:
        network: Module that satisfies `LayeredNetwork`.
        schedule: What is trained when; read by the callbacks, so that all agree.
        class_names: Name of every class, in the order of the logits.
        optimizer: Makes an optimiser from parameter groups; rates are set at every step from the schedule.
        mean: Per-channel mean of pixels in [0, 1].
        std: Per-channel standard deviation of pixels in [0, 1].
        compile_mode: Mode of `torch.compile` for training; ``reduce-overhead`` and ``max-autotune`` use CUDA graphs.
            Validation and tests never are: they are short, and their last batch has a size of its own. None: not.

    Raises:
        UserError: If the schedule does not fit the network's layer groups, or there is no such mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        class_names: Sequence[str],
        optimizer: OptimizerFactory = torch.optim.AdamW,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        if compile_mode not in (None, *COMPILE_MODES):
            raise UserError(f"compile must be null or one of {', '.join(COMPILE_MODES)}, not {compile_mode!r}")
        if not isinstance(network, LayeredNetwork):
            raise UserError(f"model: {type(network).__name__} has no layer_groups()")
        # On CPUs with bf16 and on GPUs, convolutions are fastest with channels innermost.
        self.network = network.to(memory_format=torch.channels_last)
        self.schedule = schedule
        self.class_names = list(class_names)
        self.group_names = tuple(network.layer_groups())
        schedule.check(self.group_names)
        _check_groups_hold_everything(network)
        self._make_optimizer = optimizer
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.val_metrics = _metrics(len(self.class_names))
        self.test_metrics = _metrics(len(self.class_names))
        self.test_name = "test"  # which images are tested: part of the metrics' names
        # Each phase has a size of its own and keeps it: code for any size would be slower.
        compiled = torch.compile(self.forward, mode=compile_mode, dynamic=False) if compile_mode else None
        self._compiled: Callable[[Tensor], Tensor] | None = compiled

    def normalise(self, images: Tensor) -> Tensor:
        """Turn grey uint8 images (batch, 1, h, w) into normalised float ones (batch, 3, h, w), channels last."""
        # There are 256 greys only: looked up, they take a quarter of the time that computing every pixel takes.
        greys = torch.arange(256, dtype=torch.float32, device=images.device).unsqueeze(1)
        table = (greys / 255 - self.mean.view(1, -1)) / self.std.view(1, -1)
        return F.embedding(images[:, 0].int(), table).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of grey uint8 images (batch, 1, h, w)."""
        logits: Tensor = self.network(self.normalise(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Unweighted cross-entropy, as in the article."""
        images, labels = batch
        logits: Tensor = (self._compiled or self)(images)
        loss = F.cross_entropy(logits.float(), labels)
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def log_step(self, figures: Mapping[str, float]) -> None:
        """Log figures of a training step, if the Trainer logs this step: `log_every_n_steps`.

        Saves the time for all others, which on a GPU is some of the step's.
        """
        if self.trainer._logger_connector.should_update_logs:  # as Lightning's own callbacks ask
            self.log_dict(dict(figures))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._update(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._update(self.test_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log(self.val_metrics, "val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log(self.test_metrics, self.test_name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser over all named groups, whatever the phase: see `parameter_groups`."""
        assert isinstance(self.network, LayeredNetwork)
        return self._make_optimizer(parameter_groups(self.network.layer_groups()))

    def _update(self, metrics: MetricCollection, batch: Batch) -> None:
        images, labels = batch
        logits = self(images).float()
        metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        for name in ("accuracy", "f1_weighted", "recall", "confusion"):
            metrics[name].update(logits, labels)

    def _log(self, metrics: MetricCollection, split: str) -> None:
        self.confusion: Tensor = metrics["confusion"].compute()
        values = {name: metrics[name].compute() for name in ("loss", "accuracy", "f1_weighted")}
        recalls = metrics["recall"].compute()
        values |= {f"recall/{name}": recall for name, recall in zip(self.class_names, recalls, strict=True)}
        # Already the same in all processes; `sync_dist` only tells Lightning so.
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)
        metrics.reset()


def _metrics(classes: int) -> MetricCollection:
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanMetric(),
        "accuracy": MulticlassAccuracy(classes, average="micro"),
        "f1_weighted": MulticlassF1Score(classes, average="weighted"),
        "recall": MulticlassRecall(classes, average="none"),
        "confusion": MulticlassConfusionMatrix(classes),
    }
    return MetricCollection(metrics, compute_groups=False)


def _check_groups_hold_everything(network: LayeredNetwork) -> None:
    grouped = {id(p) for modules in network.layer_groups().values() for module in modules for p in module.parameters()}
    assert isinstance(network, nn.Module)
    if lost := [name for name, parameter in network.named_parameters() if id(parameter) not in grouped]:
        raise UserError(f"model: layer_groups() leaves out {lost[0]}, which would never train")
