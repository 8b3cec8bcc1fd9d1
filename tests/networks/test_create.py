"""Networks by name."""

from pathlib import Path

import pytest
import torch

from covid_xray.errors import UserError
from covid_xray.networks.create import create_network
from covid_xray.networks.resnet import TransferResNet


def test_resnet_by_name_with_weights_and_settings(tmp_path: Path) -> None:
    source = TransferResNet(7, "resnet18")
    torch.save(source.body.state_dict(), tmp_path / "body.pt")
    network = create_network("resnet18", 3, str(tmp_path / "body.pt"), hidden=16, dropout=(0.0, 0.1))
    assert isinstance(network, TransferResNet)
    assert torch.equal(network.body.get_parameter("conv1.weight"), source.body.get_parameter("conv1.weight"))
    assert network.head[-1].in_features == 16
    assert network.head[-1].out_features == 3
    settings = {"architecture": "resnet18", "hidden": 16, "dropout": (0.0, 0.1)}
    assert network.config == {"_target_": "covid_xray.networks.resnet.TransferResNet", **settings}


def test_class_by_import_path() -> None:
    network = create_network("covid_xray.networks.resnet.TransferResNet", 4, architecture="resnet18")
    assert isinstance(network, TransferResNet)
    assert network.head[-1].out_features == 4
    assert network.config == {"_target_": "covid_xray.networks.resnet.TransferResNet", "architecture": "resnet18"}


@pytest.mark.parametrize("name", ["resnet19", "no_such_package.Network", "covid_xray.networks.resnet.Missing", ""])
def test_unknown_network_is_refused(name: str) -> None:
    with pytest.raises(UserError) as info:
        create_network(name, 3)
    assert str(info.value).startswith(f"there is no network {name!r} (")
    assert "use one of resnet18, resnet34, resnet50, resnet101, resnet152, or the import path" in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "resnet19"}, "model.architecture='resnet19' is unknown; use one of resnet18, "),
        ({"hidden": 0}, "model.hidden must be a whole number from 1 to 65,536, not 0"),
        ({"dropout": [0.5]}, "model.dropout must be two numbers from 0 to below 1, not [0.5]"),
        ({"dropout": [0.5, 1.0]}, "model.dropout must be two numbers from 0 to below 1, not [0.5, 1.0]"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as info:
        TransferResNet(3, **settings)  # type: ignore[arg-type]
    assert str(info.value).startswith(message)
