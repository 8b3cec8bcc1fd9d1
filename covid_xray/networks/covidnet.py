"""A network like COVID-Net: its public stage widths and block counts, with inner widths of our own."""

from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks.layer_groups import LayerGroups

# Width and number of blocks of each stage, as published.
STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))


class PEPX(nn.Module):
    """Projection, expansion, depthwise convolution, projection, extension.

    Args:
        inputs: Input channels.
        outputs: Output channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # The published widths are not public; these come closest to the published size and cost.
        narrow, wide = outputs // 5, 3 * outputs // 8
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, narrow, 1),
            nn.Conv2d(narrow, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.Conv2d(wide, narrow, 1),
            nn.Conv2d(narrow, outputs, 1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (batch, outputs, h, w) of maps (batch, inputs, h, w)."""
        outputs: Tensor = self.layers(maps)
        return outputs


class _Stage(nn.Module):
    """PEPX blocks with dense links, and a long-range 1x1 convolution that feeds every block."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.link = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=2), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2, 2)
        self.blocks = nn.ModuleList([PEPX(inputs, width), *(PEPX(width, width) for _ in range(blocks - 1))])

    def forward(self, maps: Tensor) -> Tensor:
        total: Tensor = self.link(maps)
        for number, block in enumerate(self.blocks):
            total = total + block(self.pool(maps) if number == 0 else total)
        return total


class CovidNetLike(nn.Module):
    """COVID-Net-like: stem, four stages of PEPX blocks with long-range connections, flattened head.

    It is called "like" because only stage widths and block counts of COVID-Net are public: the released graphs' inner
    widths are not described. The size is close to the published one: about 13 of 13.6 million parameters in the body,
    116 of 116.6 million in all. BatchNorm after each block makes training from random weights possible.

    Its head is flattened, so the network accepts one image size only. Layer groups: ``early`` (stem and two stages),
    ``late`` (two stages), ``head``.

    Args:
        num_classes: Number of logits.
        input_size: Side of the images, in pixels; a multiple of 32.

    Raises:
        UserError: If the size is no multiple of 32.

    Source: Wang, Lin and Wong 2020 (lindawangg/COVID-Net).
    """

    def __init__(self, num_classes: int, input_size: int = 224) -> None:
        super().__init__()
        if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size < 32 or input_size % 32:
            raise UserError(f"model.input_size must be a multiple of 32, not {input_size!r}")
        self.input_size = input_size
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        widths = (64, *(width for width, _ in STAGES))
        self.stages = nn.ModuleList(
            _Stage(inputs, width, blocks) for inputs, (width, blocks) in zip(widths, STAGES, strict=False)
        )
        side = input_size // 32
        self.head = nn.Sequential(
            *(nn.Flatten(), nn.Linear(widths[-1] * side**2, 1024), nn.ReLU(inplace=True)),
            *(nn.Linear(1024, 256), nn.ReLU(inplace=True), nn.Linear(256, num_classes)),
        )

    def layer_groups(self) -> LayerGroups:
        """Modules by group name, from the image to the head."""
        first, second, third, fourth = self.stages
        return {"early": [self.stem, first, second], "late": [third, fourth], "head": [self.head]}

    def features(self, images: Tensor) -> Tensor:
        """Last feature map (batch, 2048, input_size / 32, ...) of normalised images (batch, 3, h, w)."""
        maps: Tensor = self.stem(images)
        for stage in self.stages:
            maps = stage(maps)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, input_size, input_size)."""
        logits: Tensor = self.head(self.features(images))
        return logits
