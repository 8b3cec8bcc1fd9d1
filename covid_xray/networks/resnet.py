"""The article's network: a torchvision ResNet body and fastai's head, in three named layer groups."""

from collections import OrderedDict
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torchvision import models

from covid_xray.errors import UserError
from covid_xray.networks.weights import load_body_weights

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@runtime_checkable
class LayeredNetwork(Protocol):
    """What the training needs of a network: logits from images, and layer groups from the image to the head."""

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Modules of every group, by name, in the order of the forward pass; together they hold every parameter."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, height, width)."""
        ...


class ConcatPool(nn.Module):
    """Global maximum and average, side by side: (batch, c, h, w) to (batch, 2c).

    Source: fastai's AdaptiveConcatPool2d.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map."""
        return torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3))], dim=1)


class TransferResNet(nn.Module):
    """ResNet body up to the average pool, with the head that fastai puts on it.

    The body keeps torchvision's parameter names. Layer groups, as fastai 1 cuts a ResNet: ``early`` (stem, layer1,
    layer2), ``late`` (layer3, layer4) and ``head``.

    Args:
        num_classes: Number of logits.
        architecture: One of ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnet152``.
        weights: A torchvision weights name (``IMAGENET1K_V2``), a local file, or None for random weights.
        hidden: Width of the head's hidden layer.
        dropout: Dropout before the hidden and before the last linear layer.

    Raises:
        UserError: If a setting is out of range or the weights cannot be had.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: str = "resnet50",
        weights: str | None = None,
        hidden: int = 512,
        dropout: tuple[float, float] = (0.25, 0.5),
    ) -> None:
        super().__init__()
        _check(architecture, hidden, dropout)
        resnet = models.get_model(architecture, weights=None)
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        self.body = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))
        self.head = _head(2 * resnet.fc.in_features, num_classes, hidden, dropout)
        if weights is not None:
            load_body_weights(self.body, architecture, weights)

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Modules by group name, from the image to the head."""
        part = self.body.get_submodule
        return {
            "early": [part("conv1"), part("bn1"), part("layer1"), part("layer2")],
            "late": [part("layer3"), part("layer4")],
            "head": [self.head],
        }

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, height, width)."""
        logits: Tensor = self.head(self.body(images))
        return logits


def _head(in_features: int, num_classes: int, hidden: int, dropout: tuple[float, float]) -> nn.Sequential:
    head = nn.Sequential(
        ConcatPool(),
        nn.BatchNorm1d(in_features),
        nn.Dropout(dropout[0]),
        nn.Linear(in_features, hidden),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(hidden),
        nn.Dropout(dropout[1]),
        nn.Linear(hidden, num_classes),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return head


def _check(architecture: str, hidden: int, dropout: tuple[float, float]) -> None:
    if architecture not in ARCHITECTURES:
        raise UserError(f"model.architecture={architecture!r} is unknown; use one of {', '.join(ARCHITECTURES)}")
    if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
        raise UserError(f"model.hidden must be a whole number of at least 1, not {hidden!r}")
    rates = list(dropout) if isinstance(dropout, list | tuple) else []
    if len(rates) != 2 or not all(isinstance(rate, int | float) and 0 <= rate < 1 for rate in rates):
        raise UserError(f"model.dropout must be two numbers from 0 to below 1, not {dropout!r}")
