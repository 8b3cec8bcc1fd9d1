import pytest
import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet
from covid_xray.probes.saliency import grad_cam, randomised, randomised_weights_check


class Spots(nn.Module):
    """The logit of class k is the mean of channel k."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.body[1].weight.data = torch.eye(2)[:, :, None, None]
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
        self.head[2].weight.data = torch.eye(2)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features


class Tokens(nn.Module):
    """The network of `Spots` with tokens as features, after a number of class tokens that the head does not use."""

    def __init__(self, class_tokens: int) -> None:
        super().__init__()
        self.class_tokens = class_tokens
        self.spots = Spots()

    def features(self, images: Tensor) -> Tensor:
        tokens = self.spots.features(images).flatten(2).transpose(1, 2)
        return torch.cat([torch.full((len(images), self.class_tokens, 2), 9.0), tokens], dim=1)

    def head(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.class_tokens :].mean(dim=1)


def spots(width: int = 48) -> Tensor:
    images = torch.zeros(2, 2, 32, width)
    images[:, 0, 4:12, 4:12] = 1
    images[:, 1, 20:28, width - 12 : width - 4] = 1
    return images


def test_maps_show_the_evidence_for_the_class() -> None:
    maps = grad_cam(Spots(), spots(), torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 48)
    assert maps.dtype == torch.float32
    assert maps.amin() >= 0
    assert maps.amax(dim=(1, 2)).tolist() == pytest.approx([1.0, 1.0])
    assert maps[0, 8, 8] > 0.9
    assert maps[0, 24, 40] == 0
    assert maps[1, 24, 40] > 0.9
    assert maps[1, 8, 8] == 0


@pytest.mark.parametrize("class_tokens", [0, 1])
def test_maps_of_tokens_equal_the_maps_of_a_feature_map(class_tokens: int) -> None:
    images, targets = spots(width=32) + 0.1 * torch.rand(2, 2, 32, 32), torch.tensor([0, 1])
    expected = grad_cam(Spots(), images, targets)
    torch.testing.assert_close(grad_cam(Tokens(class_tokens), images, targets), expected)


def test_maps_equal_the_definition_on_a_resnet() -> None:
    torch.manual_seed(0)
    network = TransferResNet(3, "resnet18", hidden=16).eval()
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([2, 0])
    features = network.features(images)
    features.retain_grad()
    network.head(features).gather(1, targets[:, None]).sum().backward()
    assert features.grad is not None
    coarse = torch.relu((features.grad.mean(dim=(2, 3), keepdim=True) * features).sum(1)).detach()
    expected = nn.functional.interpolate(coarse[:, None], size=(64, 64), mode="bilinear")[:, 0]
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(grad_cam(network, images, targets), expected)


def test_maps_are_independent_of_frozen_layers_and_gradient_mode_and_do_not_change_the_network() -> None:
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


def test_sanity_check_separates_trained_weights_from_architecture() -> None:
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
    assert "depend on the trained weights" in found.text
    assert found == randomised_weights_check(network, images, targets)

    class NoWeights(Spots):
        """A network without weights: its maps cannot change."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.AvgPool2d(4))
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    same = randomised_weights_check(NoWeights(), spots(), torch.tensor([0, 1]))
    assert same.mean == pytest.approx(1)
    assert same.passed is False
    assert "show the architecture" in same.text
    constant = randomised_weights_check(NoWeights(), torch.zeros(1, 2, 32, 32), torch.tensor([0]))
    assert constant.passed is None


def test_random_weights_include_attention() -> None:
    attention = nn.MultiheadAttention(4, 2)
    drawn = randomised(attention)
    assert isinstance(drawn, nn.MultiheadAttention)
    assert not torch.equal(drawn.in_proj_weight, attention.in_proj_weight)


def test_unsuitable_networks_and_lengths_raise() -> None:
    targets = torch.tensor([0, 1])
    with pytest.raises(UserError, match=r"Linear needs the methods features\(images\) and head\(features\)$"):
        grad_cam(nn.Linear(2, 2), spots(), targets)
    with pytest.raises(UserError, match="2 images, but 1 classes"):
        grad_cam(Spots(), spots(), targets[:1])
    flat = Spots()
    flat.body.append(nn.Flatten())
    with pytest.raises(UserError, match=r"features\(\) of Spots returns shape \(2, 192\)"):
        grad_cam(flat, spots(), targets)
    assert flat.training
    for network, width, tokens in ((Tokens(0), 48, 96), (Tokens(2), 32, 66)):
        with pytest.raises(UserError, match=rf"shape \(2, {tokens}, 2\); .* square number of tokens"):
            grad_cam(network, spots(width), targets)
