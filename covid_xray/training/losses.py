"""Losses, made with the class counts of the training split.

Validation, tests and the choice of a checkpoint always use the plain cross-entropy, so that runs with different losses
compare.

A loss that is not a mean over the images has a method ``denominator``, by which `XrayClassifier` weights the parts of a
batch if gradients are accumulated. A loss whose ``forward`` has a parameter ``sources`` gets the sources of the images.
"""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covid_xray.errors import UserError

ClassWeights = str | Mapping[str, float] | None


class CrossEntropy(nn.Module):
    """Cross-entropy, optionally with class weights and label smoothing.

    Args:
        class_counts: Training images by class, in the order of the logits.
        class_weights: ``balanced`` (n / (classes * images of the class), as in scikit-learn), a weight by class name
            (1 for the others), or None.
        label_smoothing: Share of the probability that is spread over all classes, from 0 to below 1.

    Raises:
        UserError: If a setting is out of range, or a class is unknown.
    """

    weight: Tensor | None

    def __init__(
        self, class_counts: Mapping[str, int], class_weights: ClassWeights = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, int | float):
            raise UserError(f"loss.label_smoothing must be a number, not {label_smoothing!r}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing must be at least 0 and below 1, not {label_smoothing!r}")
        self.label_smoothing = float(label_smoothing)
        self.register_buffer("weight", _weights(class_counts, class_weights), persistent=False)

    @property
    def is_plain(self) -> bool:
        """Whether it is the cross-entropy without weights and smoothing."""
        return self.weight is None and self.label_smoothing == 0

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (batch, classes), float32, and labels (batch,) or probabilities (batch, classes)."""
        return F.cross_entropy(logits, targets, weight=self.weight, label_smoothing=self.label_smoothing)

    def denominator(self, targets: Tensor) -> Tensor:
        """What the mean divides by: the sum of the labels' weights; for probabilities, the number of images."""
        if self.weight is None or targets.ndim == 2:
            return torch.tensor(float(len(targets)), device=targets.device)
        return self.weight[targets].sum()


class FocalLoss(nn.Module):
    """Focal loss: cross-entropy times (1 - p)^gamma, where p is the probability of the true class.

    Args:
        class_counts: Training images by class, in the order of the logits.
        gamma: Exponent, at least 0; 0 is the cross-entropy.
        class_weights: As for `CrossEntropy`; the mean is weighted as there.

    Raises:
        UserError: If a setting is out of range, or a class is unknown.

    Source: Lin et al. 2017.
    """

    weight: Tensor | None

    def __init__(self, class_counts: Mapping[str, int], gamma: float = 2.0, class_weights: ClassWeights = None) -> None:
        super().__init__()
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or gamma < 0:
            raise UserError(f"loss.gamma must be a number of at least 0, not {gamma!r}")
        self.gamma = float(gamma)
        self.register_buffer("weight", _weights(class_counts, class_weights), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (batch, classes), float32, and labels (batch,) or probabilities (batch, classes)."""
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        log_p = F.log_softmax(logits, dim=1)
        terms = -targets * (1 - log_p.exp()) ** self.gamma * log_p
        if self.weight is None:
            return terms.sum(dim=1).mean()
        return (terms * self.weight).sum() / self.denominator(targets)

    def denominator(self, targets: Tensor) -> Tensor:
        """What the mean divides by: the sum of the weights of labels or probabilities, or the number of images."""
        if self.weight is None:
            return torch.tensor(float(len(targets)), device=targets.device)
        return self.weight[targets].sum() if targets.ndim == 1 else (targets * self.weight).sum()


class GroupDRO(nn.Module):
    """Group distributionally robust optimisation: minimises the loss of the worst group, a class from one source.

    At every step, the weight of each group grows with its loss, and the loss is the weighted sum of the means of the
    groups in the batch. The weights are part of the checkpoint, so resume is exact.

    Args:
        group_counts: Training images per class (rows, in the order of the logits) and source (columns).
        step_size: Step size of the weights, above 0.
        adjustment: Added to the loss of a group of n images for its weight: adjustment / sqrt(n). At least 0.

    Raises:
        UserError: If a setting is out of range.

    Source: Sagawa et al. 2020, algorithm 1. They draw all groups equally often, which ``sampler=independent`` does
    where classes and sources are.
    """

    group_weights: Tensor
    shift: Tensor

    def __init__(self, group_counts: pd.DataFrame, step_size: float = 0.01, adjustment: float = 0.0) -> None:
        super().__init__()
        for name, value, least in (("step_size", step_size, "above"), ("adjustment", adjustment, "at least")):
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            if not is_number or (value == 0 and least == "above"):
                raise UserError(f"loss.{name} must be a number {least} 0, not {value!r}")
        self.step_size, self.adjustment = float(step_size), float(adjustment)
        self.n_sources = group_counts.shape[1]
        counts = torch.tensor(group_counts.to_numpy(), dtype=torch.float32).flatten()
        self.register_buffer("shift", self.adjustment / counts.clamp(min=1).sqrt(), persistent=False)
        self.register_buffer("group_weights", (counts > 0) / (counts > 0).sum())

    def forward(self, logits: Tensor, targets: Tensor, sources: Tensor) -> Tensor:
        """Weighted loss of logits (batch, classes), float32, labels (batch,) and sources (batch,).

        The batch is that of all processes together.
        """
        losses = F.cross_entropy(logits, targets, reduction="none")
        groups = F.one_hot(targets * self.n_sources + sources, len(self.group_weights)).to(losses.dtype)
        sums = (losses.unsqueeze(1) * groups).sum(dim=0)  # not a matrix product, which autocast would round
        totals = torch.stack([sums.detach(), groups.sum(dim=0)])
        processes = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
            processes = torch.distributed.get_world_size()  # DDP takes the mean of their gradients
        counts = totals[1].clamp(min=1)
        means = torch.where(totals[1] > 0, totals[0] / counts + self.shift, 0.0)
        weights = self.group_weights * (self.step_size * means).exp()
        self.group_weights.copy_(weights / weights.sum())
        return processes * (self.group_weights.clone() * sums / counts).sum()


def _weights(counts: Mapping[str, int], wanted: ClassWeights) -> Tensor | None:
    if wanted is None:
        return None
    if wanted == "balanced":
        return torch.tensor([sum(counts.values()) / (len(counts) * count) for count in counts.values()])
    if not isinstance(wanted, Mapping):
        raise UserError(f"loss.class_weights must be balanced, a weight by class, or null, not {wanted!r}")
    if unknown := [name for name in wanted if name not in counts]:
        raise UserError(f"loss.class_weights: {unknown[0]!r} is no class; use {', '.join(counts)}")
    for name, weight in wanted.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
            raise UserError(f"loss.class_weights.{name} must be a number above 0, not {weight!r}")
    return torch.tensor([float(wanted.get(name, 1.0)) for name in counts])
