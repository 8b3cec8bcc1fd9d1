"""BatchNorm folded into convolutions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks.covidnet import CovidNetLike
from covid_xray.networks.folding import fold_batchnorm
from covid_xray.networks.resnet import TransferResNet


def randomised(network: nn.Module) -> nn.Module:
    """A network whose BatchNorm layers have statistics and weights as after a training."""
    random = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.bias):
                assert tensor is not None
                tensor.data.normal_(0, 0.1, generator=random)
            for tensor in (layer.running_var, layer.weight):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=random)
    return network.eval()


@pytest.mark.parametrize(
    ("network", "folded"),
    [(TransferResNet(3, "resnet18"), 20), (CovidNetLike(3, input_size=32), None)],
    ids=["resnet", "covidnet"],
)
def test_folded_networks_answer_the_same(network: nn.Module, folded: int | None) -> None:
    randomised(network)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(images)
        number = fold_batchnorm(network)
        after = network(images)
        features: Any = network.features
        assert features(images).ndim == 4  # what saliency and the out-of-distribution score use
    assert folded is None or number == folded
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()
    assert not torch.equal(after, before)


class Reused(nn.Module):
    """Calls its convolution twice, so that a BatchNorm must not change it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.bn(self.conv(images)) + self.conv(images)
        return found


class Branching(Reused):
    """Cannot be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(("network", "text"), [(Reused(), "no BatchNorm after a"), (Branching(), "cannot be folded")])
def test_networks_that_cannot_be_folded(network: nn.Module, text: str) -> None:
    with pytest.raises(UserError, match=text):
        fold_batchnorm(network.eval())
