"""Every family of networks: the contract, the published numbers, and what does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

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


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("a", "b", "c"), "Weights: 134 of 134 tensors of the network from {file}\n"),
        (("a", "b", "d"), "The head is new: the classes of {file} are a, b, c, and those of this data a, b, d\n"),
        (("a", "b"), "The head is new: the classes of {file} are a, b, c, and those of this data a, b\n"),
        ((), "; new: head.1.weight, head.1.bias ...\n"),
    ],
)
def test_weights_of_a_run_load_the_head_only_where_the_classes_agree(
    classes: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.ckpt"
    source, target = TransferResNet(3, "resnet18", hidden=16), TransferResNet(len(classes) or 3, "resnet18", hidden=16)
    state: dict[str, Any] = {f"network.{name}": tensor for name, tensor in source.state_dict().items()}
    state |= {"mean": torch.full((1, 3, 1, 1), 0.25), "std": torch.full((1, 3, 1, 1), 0.5)}
    torch.save({"state_dict": state, "class_names": ["a", "b", "c"]}, file)
    head = [tensor.clone() for tensor in target.head.state_dict().values()]
    load_weights(target, str(file), classes)
    assert said.format(file=file) in capsys.readouterr().out
    for a, b in zip(target.body.state_dict().values(), source.body.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    if classes == ("a", "b", "c"):
        head = list(source.head.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(target.head.state_dict().values(), head, strict=True))
    assert (vars(target)["mean"], vars(target)["std"]) == ((0.25,) * 3, (0.5,) * 3)


def published_densenet() -> models.DenseNet:
    """DenseNet121 of torchxrayvision: torchvision's with one channel and 18 logits, and images up to 1024."""
    network: models.DenseNet = models.densenet121(num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network(torch.randn(8, 1, 64, 64) * 500)  # statistics of BatchNorm as in training
    network.eval()
    return network


@pytest.mark.parametrize(("prefix", "ending"), [("", ".pt"), ("model.", ".safetensors")])
def test_weights_of_torchxrayvision(prefix: str, ending: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published, network = published_densenet(), TimmNetwork(3, "densenet121").eval()
    state = {prefix + name: tensor for name, tensor in published.state_dict().items()}
    state[f"{prefix}op_threshs"] = torch.rand(18)
    file = tmp_path / f"xrv{ending}"
    save_file(state, file) if ending == ".safetensors" else torch.save(state, file)
    load_weights(network, str(file))
    module = XrayClassifier(
        network, Schedule({"only": Phase(64, 8, 1, "all", 1e-3)}), ["a", "b", "c"], mean=network.mean, std=network.std
    ).eval()
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = nn.functional.relu(published.features((2 * (images.float() / 255) - 1) * 1024))
        found = network.features(module.normalise(images))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.std()) > 0.1
    restored = XrayClassifier(TimmNetwork(3, "densenet121"), module.schedule, module.class_names)
    restored.load_state_dict(module.state_dict())  # as a run that continues or is evaluated, without the file
    assert torch.equal(restored.eval()(images), module(images))


def test_other_networks_of_one_channel_are_refused(tmp_path: Path) -> None:
    published = published_densenet()
    published.classifier = nn.Linear(1024, 3)  # their normalisation is not known
    torch.save(published.state_dict(), tmp_path / "grey.pt")
    with pytest.raises(UserError, match=r"does not fit densenet121: .*features\.conv0\.weight has another shape"):
        load_weights(TimmNetwork(3, "densenet121"), str(tmp_path / "grey.pt"))


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.encoder."])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_weights_of_other_makers(prefix: str, key: str | None, tmp_path: Path) -> None:
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
