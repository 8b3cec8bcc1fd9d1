"""Pretrained weights from names and files, and the errors if they cannot be loaded."""

import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet
from covid_xray.networks.weights import load_weights, read_state_dict


@pytest.fixture(scope="module")
def resnet18() -> torch.nn.Module:
    torch.manual_seed(1)
    network: torch.nn.Module = models.resnet18(weights=None)
    return network


@pytest.mark.parametrize(
    ("suffix", "keep_fc", "half"), [(".pt", True, False), (".pth", False, True), (".safetensors", True, False)]
)
def test_local_file(tmp_path: Path, resnet18: torch.nn.Module, suffix: str, keep_fc: bool, half: bool) -> None:
    state = {k: v for k, v in resnet18.state_dict().items() if keep_fc or not k.startswith("fc.")}
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    network = TransferResNet(3, "resnet18")
    load_weights(network, str(file))
    for name, value in network.body.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name
    assert network.head[-1].out_features == 3


def test_weights_of_another_network_are_refused(tmp_path: Path, resnet18: torch.nn.Module) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "18.pt")
    with pytest.raises(UserError, match=r"does not fit resnet50: \d+ of 318 tensors match, missing .*another shape"):
        load_weights(TransferResNet(3, "resnet50"), str(tmp_path / "18.pt"))


def test_damaged_and_malicious_files_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    network = TransferResNet(3, "resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ("bomb.pt", "text.pt", "text.safetensors", "list.pt"):
        with pytest.raises(UserError, match=name):
            load_weights(network, str(tmp_path / name))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not (tmp_path / "exploded").exists()


def test_offline_error_names_the_file_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*arguments: object, **settings: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as info:
        load_weights(TransferResNet(3, "resnet50"), "IMAGENET1K_V2")
    message = str(info.value)
    url = models.ResNet50_Weights.IMAGENET1K_V2.url
    assert f"download {url} to {tmp_path}" in message
    assert "set weights=FILE" in message
    assert "weights=null" in message
    assert "\n" not in message


def test_default_are_the_newest_weights(monkeypatch: pytest.MonkeyPatch, resnet18: torch.nn.Module) -> None:
    fetched: list[str] = []

    def fetch(url: str, **settings: object) -> dict[str, torch.Tensor]:
        fetched.append(url)
        assert settings["weights_only"] is True
        return resnet18.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    network = TransferResNet(3, "resnet18")
    load_weights(network, "DEFAULT")
    assert fetched == [models.ResNet18_Weights.DEFAULT.url]
    assert torch.equal(network.body.get_parameter("conv1.weight"), resnet18.get_parameter("conv1.weight"))


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "weights.onnx"])
def test_unknown_name_is_refused(weights: str) -> None:
    sentence = (
        rf"^weights='{weights}' is neither a file \(.*\) nor one of torchvision's weights for resnet18 \(IMAGENET1"
    )
    with pytest.raises(UserError, match=sentence):
        load_weights(TransferResNet(3, "resnet18"), weights)


def test_network_without_pretrained_weights() -> None:
    network = torch.nn.Linear(2, 2)
    before = network.weight.clone()
    load_weights(network, "DEFAULT")
    assert torch.equal(network.weight, before)
    with pytest.raises(UserError) as info:
        load_weights(network, "IMAGENET1K_V2")
    assert str(info.value) == "weights=IMAGENET1K_V2: Linear has no load_weights(); use weights=null"


class Command:
    """Unpickled as code, it would run a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def compressed(file: Path, state: object) -> None:
    """Write a state dict as torch does, then deflate it."""
    torch.save(state, file)
    parts = {part: zipfile.ZipFile(file).read(part) for part in zipfile.ZipFile(file).namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda file: torch.save({"a": Command()}, file), r"it names posix\.system and could run code"),
        (lambda file: file.write_bytes(pickle.dumps(Command())), "it is damaged, or no weights"),
        (lambda file: compressed(file, {"a": torch.zeros(1 << 22)}), "is compressed, with 16,777"),
        (lambda file: file.write_bytes(b"\x80\x02" + b"(" * 100_000 + b"."), "cannot be read as tensors"),
        (lambda file: file.write_bytes(b"PK\x03\x04" + bytes(100)), "cannot be read as tensors"),
        (lambda file: file.write_text("hello\n" * 100), "cannot be read as tensors"),
        (lambda file: file.write_bytes(b""), "cannot be read as tensors"),
        (lambda file: torch.save({1: torch.zeros(1)}, file), "holds no state dict"),
    ],
)
def test_files_that_run_code_or_take_memory_are_refused(
    write: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pt"
    write(file)
    with pytest.raises(UserError, match=reason) as error:
        read_state_dict(file)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_file_of_torchxrayvision_is_refused_with_the_way_to_save_its_tensors(
    zipped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = types.ModuleType("torchxrayvision.models")
    module.DenseNet = type("DenseNet", (torch.nn.Linear,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    for name in ("torchxrayvision", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    file = tmp_path / "nih-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
    torch.save(module.DenseNet(2, 2), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"names torchxrayvision\.models\.DenseNet and could .*torch\.save\(xrv"
    ) as error:
        read_state_dict(file)
    assert "\n" not in str(error.value)


def test_an_honest_file_that_was_compressed_is_read(tmp_path: Path) -> None:
    state = {"a": torch.rand(10_000)}
    compressed(tmp_path / "weights.pt", state)
    assert torch.equal(read_state_dict(tmp_path / "weights.pt")["a"], state["a"])
