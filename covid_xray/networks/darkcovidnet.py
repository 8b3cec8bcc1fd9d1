"""DarkCovidNet, exactly as published: a small network that is trained from random weights."""

import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks.layer_groups import LayerGroups


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    # The published code pads 1x1 convolutions by 1 as well, so their maps grow by 2.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _triple(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_block(inputs, outputs, 3), _block(outputs, inputs, 1), _block(inputs, outputs, 3))


class DarkCovidNet(nn.Module):
    """DarkCovidNet, with 17 convolutions and, at 256 pixels and three classes, 1,167,586 parameters.

    Its head is flattened, so the network accepts one image size only. Layer groups: ``early`` (to 32 maps), ``late``,
    ``head`` (the last convolution and the linear layer).

    Args:
        num_classes: Number of logits.
        input_size: Side of the images, in pixels.

    Raises:
        UserError: If the size is too small.

    Source: Ozturk et al. 2020, Computers in Biology and Medicine 121, and its code (muhammedtalo/COVID-19).
    """

    def __init__(self, num_classes: int, input_size: int = 256) -> None:
        super().__init__()
        if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size < 32:
            raise UserError(f"model.input_size must be a whole number of at least 32, not {input_size!r}")
        self.input_size = input_size
        pool = nn.MaxPool2d(2, 2)
        self.early = nn.Sequential(_block(3, 8, 3), pool, _block(8, 16, 3), pool, _triple(16, 32), pool)
        self.late = nn.Sequential(
            *(_triple(32, 64), pool, _triple(64, 128), pool, _triple(128, 256)),
            *(_block(256, 128, 1), _block(128, 256, 3)),
        )
        # fastai 1's `conv_layer`: ReLU before BatchNorm.
        last = [nn.Conv2d(256, num_classes, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(num_classes)]
        with torch.no_grad():
            side = self.eval().features(torch.zeros(1, 3, input_size, input_size)).shape[-1]
        self.train()
        self.head = nn.Sequential(*last, nn.Flatten(), nn.Linear(num_classes * side**2, num_classes))

    def layer_groups(self) -> LayerGroups:
        """Modules by group name, from the image to the head."""
        return {"early": [self.early], "late": [self.late], "head": [self.head]}

    def features(self, images: Tensor) -> Tensor:
        """Last feature map (batch, 256, h, w) of normalised images (batch, 3, input_size, input_size)."""
        features: Tensor = self.late(self.early(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, input_size, input_size)."""
        logits: Tensor = self.head(self.features(images))
        return logits
