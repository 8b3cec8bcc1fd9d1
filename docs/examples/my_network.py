"""A network of your own: three convolutions and a linear head."""

from torch import Tensor, nn


class MyNetwork(nn.Module):
    """A small network with two layer groups, body and head.

    Args:
        num_classes: Number of logits; the project gives it.
        width: Channels of the first convolution; set in the YAML file.
    """

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, width, 2 * width):
            out = 2 * channels if channels > 3 else width
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.top = nn.Linear(4 * width, num_classes)

    def layer_groups(self) -> dict[str, list[nn.Module | nn.Parameter]]:
        """Every parameter, in groups from the image to the head: a phase freezes some, each has its own rate."""
        return {"body": [self.body], "head": [self.top]}

    def features(self, images: Tensor) -> Tensor:
        """Feature map (batch, channels, h, w) of normalised images (batch, 3, h, w): for Grad-CAM and probes."""
        features: Tensor = self.body(images)
        return features

    def head(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) of a feature map."""
        logits: Tensor = self.top(features.mean(dim=(2, 3)))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, h, w)."""
        return self.head(self.features(images))
