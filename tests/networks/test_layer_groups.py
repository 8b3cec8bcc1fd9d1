"""What training needs of a network, and the error for each thing that is missing."""

import pytest
import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks.layer_groups import LayerGroups, check_network, freeze_for, parameter_groups
from covid_xray.networks.resnet import TransferResNet
from covid_xray.schedule import Phase


class Small(nn.Module):
    """A small network; its first group is a single parameter."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.top = nn.Linear(4, num_classes)

    def layer_groups(self) -> LayerGroups:
        return {"scale": [self.scale], "body": [self.body], "top": [self.top]}

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images * self.scale)
        return features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.top(features.mean(dim=(2, 3)))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def refusal(network: nn.Module) -> str:
    with pytest.raises(UserError) as info:
        check_network(network)
    sentence = str(info.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("network", [Small(), TransferResNet(3, "resnet18")], ids=["small", "resnet18"])
def test_good_networks_pass(network: nn.Module) -> None:
    check_network(network)


@pytest.mark.parametrize("method", ["layer_groups", "features", "head"])
def test_missing_method_is_named(method: str) -> None:
    network = type("Incomplete", (Small,), {method: None})
    expected = f"model: Incomplete has no {method}; see covid_xray.networks.layer_groups.LayeredNetwork"
    assert refusal(network()) == expected


def test_method_that_cannot_be_called_is_missing() -> None:
    network = Small()
    network.features = torch.ones(1)  # type: ignore[assignment]
    assert refusal(network).startswith("model: Small has no features; see")


def test_torchvision_network_is_refused() -> None:
    assert refusal(nn.Sequential(nn.Linear(2, 2))).startswith("model: Sequential has no layer_groups; see")


@pytest.mark.parametrize(("lost", "name"), [("scale", "scale"), ("body", "body.0.weight"), ("top", "top.weight")])
def test_parameter_left_out_is_named(lost: str, name: str) -> None:
    class Forgetful(Small):
        def layer_groups(self) -> LayerGroups:
            return {group: parts for group, parts in super().layer_groups().items() if group != lost}

    assert refusal(Forgetful()) == f"model: layer_groups() of Forgetful leaves out {name}, which would never train"


@pytest.mark.parametrize("again", ["scale", "body", "layer of body"])
def test_parameter_listed_twice_is_refused(again: str) -> None:
    class Twice(Small):
        def layer_groups(self) -> LayerGroups:
            parts: LayerGroups = {"scale": [self.scale], "body": [self.body], "layer of body": [self.body[1]]}
            groups = super().layer_groups()
            return groups | {"top": [*groups["top"], *parts[again]]}

    assert refusal(Twice()) == "model: layer_groups() of Twice lists a parameter twice"


def test_optimizer_holds_every_parameter_with_its_group() -> None:
    network = Small()
    groups = parameter_groups(network.layer_groups())
    assert [group["name"] for group in groups] == ["scale", "body", "top"]
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in network.parameters()]


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize("trains", ["top", ["scale", "top"], "all"])
def test_freezing_of_parameters_and_batch_norm(trains: str | list[str], train_bn: bool) -> None:
    network = Small().train()
    freeze_for(Phase(32, 2, 1, trains, 1e-3, train_bn), network.layer_groups())
    names = ["scale", "body", "top"] if trains == "all" else [trains] if isinstance(trains, str) else trains
    frozen = {name: not parameter.requires_grad for name, parameter in network.named_parameters()}
    for name, is_frozen in frozen.items():
        expected = not train_bn if name.startswith("body.1.") else name.split(".")[0] not in names
        assert is_frozen == expected, name
    assert network.body[1].training == train_bn
