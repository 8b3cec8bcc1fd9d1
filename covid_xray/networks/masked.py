"""A network that never sees the lungs: what it learns all the same, the borders of the images gave away."""

import torch
from torch import Tensor

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's; black is what they make of a grey level of 0


class BordersOnlyResNet(TransferResNet):
    """A `TransferResNet` whose images lose their centre, in training and ever after.

    The mask belongs to the network, not to the augmentation: validation, test, heat maps and export see the same
    images as training, and it comes after rotation and zoom, which would shift it.

    Args:
        num_classes: Number of logits.
        share: Share of either side that the black rectangle takes, between 0 and 1.
        architecture: As for `TransferResNet`, as are the next three.
        weights: A torchvision weights name, a local file, or None.
        hidden: Width of the head's hidden layer.
        dropout: Dropout before the hidden and before the last linear layer.

    Raises:
        UserError: If a setting is out of range or the weights cannot be had.

    Source: Maguolo and Nanni 2021.
    """

    black: Tensor

    def __init__(
        self,
        num_classes: int,
        share: float = 0.75,
        architecture: str = "resnet50",
        weights: str | None = None,
        hidden: int = 512,
        dropout: tuple[float, float] = (0.25, 0.5),
    ) -> None:
        super().__init__(num_classes, architecture, weights, hidden, dropout)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"model.share must lie between 0 and 1, not {share!r}")
        self.share = float(share)
        black = -torch.tensor(_MEAN) / torch.tensor(_STD)
        self.register_buffer("black", black.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, height, width), their centre blackened first."""
        return super().forward(self.mask(images))

    def mask(self, images: Tensor) -> Tensor:
        """A copy of normalised images with the centred rectangle black."""
        height, width = images.shape[-2:]
        top, left = (round(side * (1 - self.share) / 2) for side in (height, width))
        masked = images.clone()
        masked[..., top : height - top, left : width - left] = self.black.to(images.dtype)
        return masked
