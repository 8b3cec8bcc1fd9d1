"""MixUp and CutMix on the batches of the training, with the draws of the step's own seed.

`covid_xray.training.callbacks.seeding.StepSeeding` seeds torch before every step, so a mixed batch depends on seed,
epoch and step only, and resume stays exact.
"""

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

from covid_xray.errors import UserError

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixup(num_classes: int, alpha: float = 0.2) -> Mixing:
    """MixUp of normalised images (batch, 3, h, w) and labels (batch,), which become probabilities (batch, classes).

    Args:
        num_classes: Number of classes.
        alpha: Parameter of the Beta distribution of the share, above 0.

    Raises:
        UserError: If ``alpha`` is out of range.

    Source: Zhang et al. 2018, as torchvision's MixUp.
    """
    mix: Mixing = v2.MixUp(num_classes=num_classes, alpha=_check(alpha))
    return mix


def cutmix(num_classes: int, alpha: float = 1.0) -> Mixing:
    """CutMix of normalised images (batch, 3, h, w) and labels (batch,), which become probabilities (batch, classes).

    Args:
        num_classes: Number of classes.
        alpha: Parameter of the Beta distribution of the share, above 0.

    Raises:
        UserError: If ``alpha`` is out of range.

    Source: Yun et al. 2019, as torchvision's CutMix.
    """
    mix: Mixing = v2.CutMix(num_classes=num_classes, alpha=_check(alpha))
    return mix


def _check(alpha: float) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha <= 0:
        raise UserError(f"mixing.alpha must be a number above 0, not {alpha!r}")
    return float(alpha)
