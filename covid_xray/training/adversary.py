"""An adversary that predicts the source from the network's features, so that the network learns to hide it."""

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covid_xray.errors import UserError
from covid_xray.networks.layer_groups import LayeredNetwork, feature_channels

_MAX_HIDDEN = 1 << 16


class SourceAdversary(nn.Module):
    """A small classifier of the source, behind a gradient reversal.

    The adversary learns to predict the source from the pooled features of the network. The reversal turns the sign of
    the gradient between the two, so the network learns features from which the adversary cannot.

    Where the label predicts the source, features of the disease predict it too, and the network would have to hide
    the disease. So with ``reweight``, image weights make label and source independent in the adversary's loss.
    Ganin and Lempitsky have no such weights.

    Args:
        network: The network; it is not kept.
        group_counts: Training images per class (rows) and source (columns).
        weight: Factor of the reversed gradient at the end of the training; it rises from 0 with `strength_at`.
        hidden: Width of the hidden layer.
        reweight: Whether to weight images by p(class) p(source) / p(class, source).

    Raises:
        UserError: If a setting is out of range.

    Source: Ganin and Lempitsky 2015.
    """

    image_weights: Tensor

    def __init__(
        self,
        network: LayeredNetwork,
        group_counts: pd.DataFrame,
        weight: float = 1.0,
        hidden: int = 256,
        reweight: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"adversary.weight must be a number above 0, not {weight!r}")
        if isinstance(hidden, bool) or not isinstance(hidden, int) or not 1 <= hidden <= _MAX_HIDDEN:
            raise UserError(f"adversary.hidden must be a whole number from 1 to {_MAX_HIDDEN:,}, not {hidden!r}")
        if not isinstance(reweight, bool):
            raise UserError(f"adversary.reweight must be true or false, not {reweight!r}")
        self.weight, self.hidden, self.reweight = float(weight), hidden, reweight
        counts = torch.tensor(group_counts.to_numpy(), dtype=torch.float32)
        expected = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0, keepdim=True) / counts.sum()
        weights = expected / counts.clamp(min=1) if reweight else torch.ones_like(counts)
        self.register_buffer("image_weights", weights, persistent=False)
        first, last = nn.Linear(feature_channels(network), hidden), nn.Linear(hidden, counts.shape[1])
        self.layers = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, features: Tensor, targets: Tensor, sources: Tensor, progress: float) -> Tensor:
        """Mean cross-entropy of the source; its gradient for the features is reversed.

        Args:
            features: Feature map (batch, c, h, w) or tokens (batch, n, c).
            targets: Labels (batch,).
            sources: Sources (batch,).
            progress: Share of the training that is done, from 0 to 1.
        """
        pooled = features.mean(dim=(2, 3) if features.ndim == 4 else 1)
        logits = self.layers(reverse_gradient(pooled, self.weight * strength_at(progress))).float()
        weights = self.image_weights[targets, sources]
        return (weights * F.cross_entropy(logits, sources, reduction="none")).mean()


def strength_at(progress: float) -> float:
    """Share of the reversed gradient: it rises from 0 to 1, so that early noise of the adversary does no harm.

    Source: Ganin and Lempitsky 2015, with their gamma of 10.
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """The values; their gradient is multiplied by ``-strength``."""
    reversed_values: Tensor = _Reversal.apply(values, strength)
    return reversed_values


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
