"""A network for runs whose test does not depend on the network: a training step takes milliseconds."""

from collections.abc import Sequence

from torch import Tensor, nn

from covid_xray.networks.layer_groups import LayerGroups

SMALL_NETWORK = "model._target_=small_network.SmallNetwork"


class SmallNetwork(nn.Module):
    """Has the settings, layer groups, BatchNorm and dropout of `covid_xray.networks.resnet.TransferResNet`."""

    def __init__(self, num_classes: int, architecture: str, hidden: int, dropout: Sequence[float]) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout[0]), nn.Linear(16, hidden)),
            *(nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout[1]), nn.Linear(hidden, num_classes)),
        )

    def layer_groups(self) -> LayerGroups:
        return {"early": [self.early], "late": [self.late], "head": [self.head]}

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.late(self.early(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits
