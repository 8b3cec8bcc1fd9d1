"""Every family of networks: the contract, the published numbers, and what does not fit."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn

from covid_xray.errors import UserError
from covid_xray.networks.covidnet import CovidNetLike
from covid_xray.networks.darkcovidnet import DarkCovidNet
from covid_xray.networks.layer_groups import check_network, freeze_for, parameter_groups
from covid_xray.networks.resnet import TransferResNet
from covid_xray.networks.timm_network import TimmNetwork
from covid_xray.networks.weights import load_weights
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.module import XrayClassifier

pytest.importorskip("timm", reason="needs covid-xray[timm]")
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (lambda: TransferResNet(3, "resnet18", hidden=16), 64),
    "timm resnet, fastai's head": (lambda: TimmNetwork(3, "resnet18", head="fastai"), 64),
    "densenet": (lambda: TimmNetwork(3, "densenet121"), 64),
    "convnext": (lambda: TimmNetwork(3, "convnext_atto"), 64),
    "efficientnet": (lambda: TimmNetwork(3, "efficientnet_b0"), 64),
    "vit": (lambda: TimmNetwork(3, "vit_tiny_patch16_224", input_size=64), 64),
    "swin": (lambda: TimmNetwork(3, "swin_tiny_patch4_window7_224", input_size=64), 64),
    "darkcovidnet": (lambda: DarkCovidNet(3, 64), 64),
    "covidnet": (lambda: CovidNetLike(3, 64), 64),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family: str) -> None:
    make, size = FAMILIES[family]
    network = cast(Any, make().eval())
    check_network(network)
    groups = network.layer_groups()
    assert list(groups) == ["early", "late", "head"]
    grouped = [parameter for group in parameter_groups(groups) for parameter in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped) == len(list(network.parameters()))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = network.features(images)
        assert torch.equal(network.head(features), network(images))
    assert features.ndim == 3 or features.shape[2] == features.shape[3]
    freeze_for(Phase(32, 4, 1, "head", 1e-3, train_bn=False), groups)
    trains = {
        name for name, group in groups.items() for p in parameter_groups({name: group})[0]["params"] if p.requires_grad
    }
    assert trains == {"head"}


def test_darkcovidnet_has_the_published_size() -> None:
    network = DarkCovidNet(3)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_167_586
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 17
    assert network.eval().features(torch.zeros(1, 3, 256, 256)).shape == (1, 256, 13, 13)


def test_covidnet_is_close_to_the_published_size() -> None:
    network = CovidNetLike(3)
    total = sum(parameter.numel() for parameter in network.parameters())
    body = total - sum(parameter.numel() for parameter in network.head.parameters())
    assert total == pytest.approx(116.6e6, rel=0.005)
    assert body == pytest.approx(13.6e6, rel=0.02)


def test_a_schedule_of_another_size_is_refused() -> None:
    schedule = Schedule({"only": Phase(96, 8, 1, "all", 1e-3)})
    with pytest.raises(UserError, match=r"only.image_size=96: DarkCovidNet accepts images of 64 pixels only"):
        XrayClassifier(DarkCovidNet(3, 64), schedule, ["a", "b", "c"])


def test_normalisation_is_that_of_the_pretraining() -> None:
    assert TimmNetwork(3, "vit_tiny_patch16_224", input_size=64).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimmNetwork(3, "resnett"), "is no network of timm"),
        (lambda: TimmNetwork(3, "resnet18", groups=1), "model.groups must be"),
        (lambda: TimmNetwork(3, "resnet18", head="deep"), "model.head must be linear or fastai"),
        (lambda: TimmNetwork(3, "vit_tiny_patch16_224", head="fastai"), "needs a feature map"),
        (lambda: TimmNetwork(3, "resnet18", input_size=64), "accepts any size"),
        (lambda: DarkCovidNet(3, 8), "model.input_size must be a whole number of at least 32"),
        (lambda: CovidNetLike(3, 100), "model.input_size must be a multiple of 32"),
    ],
)
def test_mistakes(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_weights_of_a_run_load_the_head_only_where_the_classes_agree(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.ckpt"
    source = TransferResNet(3, "resnet18", hidden=16)
    torch.save({"state_dict": {f"network.{name}": tensor for name, tensor in source.state_dict().items()}}, file)
    same, other = TransferResNet(3, "resnet18", hidden=16), TransferResNet(4, "resnet18", hidden=16)
    load_weights(same, str(file))
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), source.state_dict().values(), strict=True))
    load_weights(other, str(file))
    assert "new: head.7.weight, head.7.bias" in capsys.readouterr().out
    assert torch.equal(other.body.conv1.weight, source.body.conv1.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.encoder."])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_weights_of_other_makers(prefix: str, key: str | None, tmp_path: Any) -> None:
    source, target = (TransferResNet(3, "resnet18") for _ in range(2))
    state = {prefix + name: tensor for name, tensor in source.body.state_dict().items()}
    torch.save({key: state} if key else state, tmp_path / "weights.pth.tar")
    load_weights(target, str(tmp_path / "weights.pth.tar"))
    for a, b in zip(target.body.state_dict().values(), source.body.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **settings: object) -> None:
        raise OSError("no route to host")

    network = TimmNetwork(3, "convnext_atto")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"cannot fetch the weights DEFAULT of convnext_atto .*weights=FILE"):
        network.load_weights("DEFAULT")
