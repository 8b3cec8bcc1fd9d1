"""A loss of your own: generalised cross-entropy, which wrong labels disturb less."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F


class GeneralisedCrossEntropy(nn.Module):
    """(1 - p^q) / q, where p is the probability of the true class.

    Args:
        class_counts: Training images by class, in the order of the logits; the project gives it.
        q: Above 0 and at most 1. Near 0 it is the cross-entropy, at 1 the mean absolute error.

    Source: Zhang and Sabuncu 2018.
    """

    def __init__(self, class_counts: Mapping[str, int], q: float = 0.7) -> None:
        super().__init__()
        self.q = q

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (batch, classes) and labels (batch,), or probabilities (batch, classes) after MixUp."""
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        p = logits.softmax(dim=1)
        return (targets * (1 - p**self.q) / self.q).sum(dim=1).mean()
