"""Pretrained weights by torchvision's name or from a local file. Files are read as tensors only, never as code."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from covid_xray.errors import UserError


def load_weights(network: nn.Module, weights: str) -> None:
    """Load pretrained weights into a network, in place.

    Args:
        network: A network with a method ``load_weights``.
        weights: What the network accepts, such as a weights name or a file. ``DEFAULT`` is the network's best known
            weights, and changes nothing in a network that has none.

    Raises:
        UserError: If the network has no pretrained weights, or they cannot be loaded.
    """
    load = getattr(network, "load_weights", None)
    if callable(load):
        load(weights)
    elif weights != "DEFAULT":
        raise UserError(f"weights={weights}: {type(network).__name__} has no load_weights(); use weights=null")


def load_body_weights(body: nn.Module, architecture: str, weights: str) -> None:
    """Load weights into the body of a ResNet, in place.

    Args:
        body: Module with torchvision's parameter names, without ``fc``.
        architecture: Torchvision's name of the network, such as ``resnet50``.
        weights: A torchvision weights name such as ``IMAGENET1K_V2`` or ``DEFAULT``, or the path of a state dict (.pt,
            .pth or .safetensors; with or without ``fc``).

    Raises:
        UserError: If the name or file is unknown, cannot be fetched or read, or does not fit the network.
    """
    entries = models.get_model_weights(architecture)
    names = {entry.name for entry in entries}
    if weights == "DEFAULT":
        weights = entries.DEFAULT.name
    if weights in names:
        state, origin = _fetch(architecture, weights), weights
    elif Path(weights).suffix in (".pt", ".pth", ".safetensors"):
        state, origin = read_state_dict(Path(weights)), weights
    else:
        raise UserError(
            f"weights={weights!r} is neither a file (.pt, .pth, .safetensors) nor one of torchvision's weights "
            f"for {architecture} ({', '.join(sorted(names))}); use null for random weights"
        )
    _load(body, state, architecture, origin)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or torch file, with ``weights_only``.

    Raises:
        UserError: If the file is missing, damaged or holds anything but tensors by name.
    """
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"weights file {path} cannot be read as tensors ({_first_line(error)})") from None
    except Exception as error:  # safetensors raises its own class, which it does not derive from a standard one
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"weights file {path} is damaged ({_first_line(error)})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights file {path} holds no state dict (tensors by name)")
    return dict(state)


def _fetch(architecture: str, name: str) -> dict[str, Tensor]:
    url: str = models.get_model_weights(architecture)[name].url
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"cannot fetch the weights {name} of {architecture} ({_first_line(error)}); with a network, download {url} "
            f"to {target}, or set weights=FILE to a local state dict, or weights=null for random weights"
        ) from None
    return state


def _load(body: nn.Module, state: dict[str, Tensor], architecture: str, origin: str) -> None:
    expected = body.state_dict()
    found = {name: state[name] for name in expected if name in state and state[name].shape == expected[name].shape}
    # Counters of BatchNorm are absent from some published files and matter only for a momentum of None.
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        wrong_shape = [name for name in missing if name in state]
        detail = f"; {wrong_shape[0]} has another shape" if wrong_shape else ""
        raise UserError(
            f"{origin} does not fit {architecture}: {len(found)} of {len(expected)} tensors match, "
            f"missing {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}{detail}"
        )
    body.load_state_dict(found, strict=False)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
