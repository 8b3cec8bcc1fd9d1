"""The article's network: a torchvision ResNet body and fastai's head, in three layer groups."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision import models

from covid_xray.errors import UserError
from covid_xray.networks.heads import fastai_head
from covid_xray.networks.layer_groups import LayerGroups
from covid_xray.networks.weights import load_body_weights

_MAX_HIDDEN = 1 << 16  # checked before memory is taken
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class TransferResNet(nn.Module):
    """ResNet body up to the average pool, with fastai's head.

    The body keeps torchvision's parameter names. Layer groups, as fastai 1 cuts a ResNet: ``early`` (stem, layer1,
    layer2), ``late`` (layer3, layer4) and ``head``.

    Args:
        num_classes: Number of logits.
        architecture: One of ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnet152``.
        hidden: Width of the head's hidden layer.
        dropout: Dropout before the hidden and before the last linear layer.

    Raises:
        UserError: If a setting is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        architecture: str = "resnet50",
        hidden: int = 512,
        dropout: tuple[float, float] = (0.25, 0.5),
    ) -> None:
        super().__init__()
        _check(architecture, hidden, dropout)
        resnet = models.get_model(architecture, weights=None)
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        self.architecture = architecture
        self.body = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))
        self.head = fastai_head(resnet.fc.in_features, num_classes, hidden, dropout)

    def layer_groups(self) -> LayerGroups:
        """Modules by group name, from the image to the head."""
        part = self.body.get_submodule
        return {
            "early": [part("conv1"), part("bn1"), part("layer1"), part("layer2")],
            "late": [part("layer3"), part("layer4")],
            "head": [self.head],
        }

    def load_weights(self, weights: str) -> None:
        """Load pretrained weights into the body; see `covid_xray.networks.weights.load_body_weights`."""
        load_body_weights(self.body, self.architecture, weights)

    def features(self, images: Tensor) -> Tensor:
        """Last feature map (batch, c, h / 32, w / 32) of normalised images (batch, 3, h, w)."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, h, w)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _check(architecture: str, hidden: int, dropout: tuple[float, float]) -> None:
    if architecture not in ARCHITECTURES:
        raise UserError(f"model.architecture={architecture!r} is unknown; use one of {', '.join(ARCHITECTURES)}")
    if isinstance(hidden, bool) or not isinstance(hidden, int) or not 1 <= hidden <= _MAX_HIDDEN:
        raise UserError(f"model.hidden must be a whole number from 1 to {_MAX_HIDDEN:,}, not {hidden!r}")
    rates = list(dropout) if isinstance(dropout, list | tuple) else []
    if len(rates) != 2 or not all(isinstance(rate, int | float) and 0 <= rate < 1 for rate in rates):
        raise UserError(f"model.dropout must be two numbers from 0 to below 1, not {dropout!r}")
