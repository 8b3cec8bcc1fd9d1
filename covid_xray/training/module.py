"""The LightningModule: loss, metrics and optimiser of a network with layer groups. Callbacks handle the phases."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassRecall,
)

from covid_xray.data.datamodule import IMAGENET_MEAN, IMAGENET_STD
from covid_xray.data.dataset import Batch
from covid_xray.data.sampling import takes_sources
from covid_xray.errors import UserError
from covid_xray.networks.layer_groups import LayeredNetwork, check_network, parameter_groups
from covid_xray.networks.weights import CLASS_NAMES
from covid_xray.schedule import Schedule
from covid_xray.training.adversary import SourceAdversary
from covid_xray.training.feature_cache import FeatureCache
from covid_xray.training.losses import CrossEntropy
from covid_xray.training.mixing import Mixing

OptimizerFactory = Callable[..., torch.optim.Optimizer]
TRAINING_ONLY = ("loss.", "adversary.")  # how the names of tensors begin that only the training needs
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class XrayClassifier(LightningModule):
    """Classifies chest X-rays.

    Args:
        network: Module that satisfies `covid_xray.networks.layer_groups.LayeredNetwork`.
        schedule: What is trained in each epoch; the callbacks read it from here.
        class_names: Name of every class, in the order of the logits.
        optimizer: Makes an optimiser from parameter groups; the schedule sets the learning rates at every step.
        mean: Per-channel mean of pixels in [0, 1].
        std: Per-channel standard deviation of pixels in [0, 1].
        compile_mode: Mode of `torch.compile` for training; ``reduce-overhead`` and ``max-autotune`` use CUDA graphs.
            Validation and tests are not compiled: they are short, and their last batch is smaller. None: not compiled.
        loss: Loss of the training; None: the plain cross-entropy, which validation and tests always use.
        mixing: Mixes normalised images and labels of a training batch; None: no mixing.
        adversary: Predicts the source from the features, which learn to hide it; None: no adversary.
        mask_centre: Share of either side, between 0 and 1, of a centred rectangle that is blacked out in every image,
            in training, validation and prediction; None: no mask. What such a network learns is in the borders of the
            images (Maguolo and Nanni 2021).

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
        mask_centre: float | None = None,
        loss: nn.Module | None = None,
        mixing: Mixing | None = None,
        adversary: SourceAdversary | None = None,
    ) -> None:
        super().__init__()
        if compile_mode not in (None, *COMPILE_MODES):
            raise UserError(f"compile must be null or one of {', '.join(COMPILE_MODES)}, not {compile_mode!r}")
        no_number = isinstance(mask_centre, bool) or not isinstance(mask_centre, int | float | None)
        if no_number or (mask_centre is not None and not 0 < mask_centre < 1):
            raise UserError(f"mask_centre must be above 0 and below 1, or null, not {mask_centre!r}")
        check_network(network)
        assert isinstance(network, LayeredNetwork)
        # On CPUs with bf16 and on GPUs, convolutions are fastest with channels innermost.
        self.network = network.to(memory_format=torch.channels_last)
        self.schedule = schedule
        self.class_names = list(class_names)
        self.group_names = tuple(network.layer_groups())
        schedule.check(self.group_names)
        size = getattr(network, "input_size", None)
        for name, phase in schedule.phases.items():
            if size is not None and phase.image_size != size:
                raise UserError(
                    f"schedule.phases.{name}.image_size={phase.image_size}: {type(network).__name__} accepts images of "
                    f"{size} pixels only; use that size, or another model.input_size"
                )
        if mixing is not None and compile_mode is not None:
            raise UserError("mixing does not work with compile: use compile=null or mixing=none")
        if (mixing or adversary or compile_mode) and any(phase.cached_features for phase in schedule.phases.values()):
            raise UserError("cached_features in a phase works only with mixing=none, adversary=none and compile=null")
        self.mask_centre, self.mixing, self.adversary = mask_centre, mixing, adversary
        self._features: tuple[str, FeatureCache] | None = None  # with the name of their phase
        self.loss = None if isinstance(loss, CrossEntropy) and loss.is_plain else loss
        self._loss_takes_sources = loss is not None and takes_sources(loss.forward)
        if self.needs_sources:
            name = "this adversary" if adversary is not None else f"the loss {type(loss).__name__}"
            if mixing is not None:
                raise UserError(f"{name} does not work with mixing, which mixes images of two sources: use mixing=none")
            if split := [key for key, phase in schedule.phases.items() if phase.accumulate > 1]:
                raise UserError(
                    f"{name} needs whole batches: use schedule.phases.{split[0]}.accumulate=1, or a smaller batch_size"
                )
        if adversary is not None and compile_mode is not None:
            raise UserError("the adversary does not work with compile: use compile=null or adversary=none")
        self._make_optimizer = optimizer
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.val_metrics = _metrics(len(self.class_names))
        self.test_metrics: dict[str, MetricCollection] = {}  # by name of the test set
        self.confusions: dict[str, Tensor] = {}  # newest confusion matrix (true, predicted), by split
        # The size is constant within a phase; code for any size would be slower.
        compiled = torch.compile(self.forward, mode=compile_mode, dynamic=False) if compile_mode else None
        self._compiled: Callable[[Tensor], Tensor] | None = compiled

    @property
    def needs_sources(self) -> bool:
        """Whether training batches must hold the sources of their images."""
        return self.adversary is not None or self._loss_takes_sources

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load network and normalisation from the tensors of a checkpoint, without what only its training needed.

        Raises:
            RuntimeError: If a tensor is missing, or has another name, shape or kind of number.
        """
        own = self.state_dict()
        kept = {name: tensor for name, tensor in own.items() if name.startswith(TRAINING_ONLY)}
        given = {name: tensor for name, tensor in state.items() if not name.startswith(TRAINING_ONLY)}
        for name, tensor in given.items():  # torch would round them to whole numbers, or drop imaginary parts
            if name in own and tensor.is_floating_point() != own[name].is_floating_point():
                raise RuntimeError(f"{name} has the type {tensor.dtype}")
        self.load_state_dict(given | kept)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn grey uint8 images (batch, 1, h, w) into normalised float ones (batch, 3, h, w), channels last."""
        images = self.mask(images)
        # There are only 256 grey levels: a table takes a quarter of the time of computing every pixel.
        greys = torch.arange(256, dtype=torch.float32, device=images.device).unsqueeze(1)
        table = (greys / 255 - self.mean.view(1, -1)) / self.std.view(1, -1)
        return F.embedding(images[:, 0].int(), table).permute(0, 3, 1, 2)

    def mask(self, images: Tensor) -> Tensor:
        """A copy of uint8 images (batch, 1, h, w) with the centre black, if ``mask_centre`` says so."""
        if self.mask_centre is None:
            return images
        height, width = images.shape[-2:]
        top, left = (round(side * (1 - self.mask_centre) / 2) for side in (height, width))
        masked = images.clone()
        masked[..., top : height - top, left : width - left] = 0
        return masked

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of grey uint8 images (batch, 1, h, w)."""
        logits: Tensor = self.network(self.normalise(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch; what else than the plain cross-entropy is minimised is logged as ``train/objective``.

        If the phase accumulates, the gradients of all parts of the batch but the last are computed here. Lightning
        adds the last one's, so a step of Lightning is always an optimiser step; its own ``accumulate_grad_batches``
        would count parts as batches, and lose gradients where a run is saved between them.
        """
        forward: Callable[[Tensor], Tensor] = self._compiled or self._logits
        images, targets, *sources = batch
        if self.mixing is not None:
            images, targets = self.mixing(self.normalise(images), targets)
            forward = self.network
        parts = self._parts
        if self.adversary is not None:
            features = self.network.features(self.normalise(images))
            plain, objective = self._losses(self.network.head(features), targets, *sources)
            progress = (self.current_epoch + batch_idx / self.trainer.num_training_batches) / self.schedule.epochs
            source_loss = self.adversary(features, targets, *sources, progress)
            self.log("train/source_loss", source_loss, on_step=True, on_epoch=False)
            objective = objective + source_loss
        elif parts == 1:
            plain, objective = self._losses(forward(images), targets, *sources)
        else:
            plain, objective = self._accumulate(forward, images.chunk(parts), targets.chunk(parts))
        self.log("train/loss", plain, on_step=True, on_epoch=False)
        if self.loss is not None or self.adversary is not None:
            self.log("train/objective", objective, on_step=True, on_epoch=False)
        return objective

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Clear the gradients, which Lightning asks for after `training_step`; too late if that accumulates."""
        if self._parts == 1:
            optimizer.zero_grad()

    def log_step(self, metrics: Mapping[str, float]) -> None:
        """Log metrics of a training step, if the Trainer logs this step (``log_every_n_steps``).

        Skipping the other steps saves time on a GPU.
        """
        if self.trainer._logger_connector.should_update_logs:  # as Lightning's own callbacks ask
            self.log_dict(dict(metrics))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._update(self.val_metrics, batch)

    def on_test_start(self) -> None:
        """Make metrics for every test set."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names = ["test"] if datamodule is None else list(datamodule.test_sets())
        self.test_metrics = {name: _metrics(len(self.class_names)).to(self.device) for name in names}

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the metrics of its test set."""
        self._update(list(self.test_metrics.values())[dataloader_idx], batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the class names with the weights: `covid_xray.networks.weights.read_weights` returns them."""
        checkpoint[CLASS_NAMES] = self.class_names

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log(self.val_metrics, "val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of every test set."""
        for name, metrics in self.test_metrics.items():
            self._log(metrics, name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser over all layer groups, the same in every phase; see `parameter_groups`.

        Lightning cannot clip the gradients of a fused optimiser in mixed precision, so that one is made without.
        """
        assert isinstance(self.network, LayeredNetwork)
        groups = self._parameter_groups()
        optimizer = self._make_optimizer(groups)
        clips = self.trainer.gradient_clip_val and "mixed" in str(self.trainer.precision)
        if clips and any(group.get("fused") for group in optimizer.param_groups):
            if self.trainer.is_global_zero:
                print(
                    "Gradients are clipped in mixed precision, so the optimiser runs with fused=False, which is slower"
                )
            optimizer = self._make_optimizer(self._parameter_groups(), fused=False)
        return optimizer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the network; the adversary is in the last group, beside the head, because both begin anew."""
        assert isinstance(self.network, LayeredNetwork)
        groups = parameter_groups(self.network.layer_groups())
        if self.adversary is not None:
            groups[-1]["params"] += list(self.adversary.parameters())
        return groups

    @property
    def _parts(self) -> int:
        """Parts of a batch in this epoch."""
        return self.schedule.at(self.current_epoch).phase.accumulate

    def _logits(self, images: Tensor) -> Tensor:
        """Logits of images, in a training also from features that the phase keeps."""
        position = self.schedule.at(self.current_epoch)
        if not (position.phase.cached_features and self.trainer.state.fn == TrainerFn.FITTING):
            self._features = None
            return self(images)  # type: ignore[no-any-return]
        if self._features is None or self._features[0] != position.name:
            assert isinstance(self.network, LayeredNetwork)
            self._features = position.name, FeatureCache(self.network)
        return self._features[1].logits(images, self.normalise)

    def _losses(self, logits: Tensor, targets: Tensor, *sources: Tensor) -> tuple[Tensor, Tensor]:
        """Plain cross-entropy, and the loss that is minimised."""
        plain = F.cross_entropy(logits.float(), targets)
        asked = sources if self._loss_takes_sources else ()
        return plain, plain if self.loss is None else self.loss(logits.float(), targets, *asked)

    def _accumulate(
        self, forward: Callable[[Tensor], Tensor], images: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """`_losses` of a whole batch, whose gradients are computed but for those of the last part."""
        optimizer = self.trainer.optimizers[0]
        optimizer.zero_grad()
        by: Callable[[Tensor], Tensor] = getattr(self.loss, "denominator", lambda part: torch.tensor(float(len(part))))
        sizes = [by(part) for part in targets]
        plain = objective = torch.zeros((), device=self.device)
        for number, (part, labels, size) in enumerate(zip(images, targets, sizes, strict=True), start=1):
            own_plain, own = self._losses(forward(part), labels)
            own = own * (size / sum(sizes))
            plain = plain + own_plain.detach() / len(images)
            if number == len(images):
                break
            # DDP does not synchronise these gradients yet: it prepares for that where `training_step` ends.
            with torch.autocast(self.device.type, enabled=False):
                self.trainer.strategy.backward(own, optimizer)
            objective = objective + own.detach()
        return plain, objective + own

    def _update(self, metrics: MetricCollection, batch: Batch) -> None:
        images, labels = batch[:2]
        logits = self._logits(images).float()
        metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"))
        for name in ("accuracy", "f1_weighted", "recall", "confusion"):
            metrics[name].update(logits, labels)

    def _log(self, metrics: MetricCollection, split: str) -> None:
        self.confusions[split] = metrics["confusion"].compute()
        values = {name: metrics[name].compute() for name in ("loss", "accuracy", "f1_weighted")}
        # The recall of a class without images is undefined; torchmetrics returns 0.
        with_images = self.confusions[split].sum(dim=1) > 0
        recalls = torch.where(with_images, metrics["recall"].compute(), torch.nan)
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
