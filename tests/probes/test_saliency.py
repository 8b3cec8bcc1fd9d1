import pytest
import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet
from covid_xray.probes.saliency import grad_cam, randomised_weights_check


class Spots(nn.Module):
    """Class 0 answers to light in the first channel, class 1 to light in the second."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.body[1].weight.data = torch.eye(2)[:, :, None, None]
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
        self.head[2].weight.data = torch.eye(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def spots() -> Tensor:
    images = torch.zeros(2, 2, 32, 48)
    images[:, 0, 4:12, 4:12] = 1
    images[:, 1, 20:28, 36:44] = 1
    return images


def test_maps_show_what_speaks_for_the_class() -> None:
    maps = grad_cam(Spots(), spots(), torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 48)
    assert maps.dtype == torch.float32
    assert maps.amin() >= 0
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1.0, 1.0])
    assert maps[0, 8, 8] > 0.9
    assert maps[0, 24, 40] == 0
    assert maps[1, 24, 40] > 0.9
    assert maps[1, 8, 8] == 0


def test_maps_equal_the_definition_on_a_resnet() -> None:
    torch.manual_seed(0)
    network = TransferResNet(3, "resnet18", hidden=16).eval()
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([2, 0])
    features = network.body(images)
    features.retain_grad()
    network.head(features).gather(1, targets[:, None]).sum().backward()
    assert features.grad is not None
    coarse = torch.relu((features.grad.mean(dim=(2, 3), keepdim=True) * features).sum(1)).detach()
    expected = nn.functional.interpolate(coarse[:, None], size=(64, 64), mode="bilinear")[:, 0]
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(grad_cam(network, images, targets), expected)


def test_frozen_networks_and_disabled_gradients_change_nothing_and_no_trace_is_left() -> None:
    torch.manual_seed(0)
    network = TransferResNet(3, "resnet18", hidden=16)
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([2, 0])
    expected = grad_cam(network, images, targets)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.requires_grad_(False)
    network.body.eval()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            torch.testing.assert_close(grad_cam(network, images.clone(), targets.clone()), expected)
    assert network.head.training
    assert not network.body.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.body._forward_hooks


def test_sanity_check_tells_learnt_maps_from_architecture() -> None:
    torch.manual_seed(0)
    network = TransferResNet(3, "resnet18", hidden=16)
    images, targets = torch.randn(4, 3, 96, 96), torch.tensor([0, 1, 2, 0])
    state = torch.random.get_rng_state()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = randomised_weights_check(network, images, targets)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert len(found.correlations) == 4
    assert found.passed is True
    assert "depend on what was learnt" in found.text
    assert found == randomised_weights_check(network, images, targets)

    class Fixed(Spots):
        """Without weights to draw: the maps cannot change."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.AvgPool2d(4))
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    stuck = randomised_weights_check(Fixed(), spots(), torch.tensor([0, 1]))
    assert stuck.mean == pytest.approx(1)
    assert stuck.passed is False
    assert "architecture" in stuck.text
    blind = randomised_weights_check(Fixed(), torch.zeros(1, 2, 32, 32), torch.tensor([0]))
    assert blind.passed is None


def test_other_networks_get_one_sentence() -> None:
    with pytest.raises(UserError, match="no body"):
        grad_cam(nn.Linear(2, 2), spots(), torch.tensor([0, 1]))
    with pytest.raises(UserError, match="2 images, but 1 classes"):
        grad_cam(Spots(), spots(), torch.tensor([0]))
    flat = Spots()
    flat.body.append(nn.Flatten())
    flat.head = nn.Sequential(nn.Linear(192, 2))
    with pytest.raises(UserError, match="no single feature map"):
        grad_cam(flat, spots(), torch.tensor([0, 1]))
    assert not flat.body._forward_hooks
