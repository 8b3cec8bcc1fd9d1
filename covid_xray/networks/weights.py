"""Pretrained weights by torchvision's name or from a local file. Files are read as tensors only, never as code."""

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision import models

from covid_xray.data.records import MAX_CLASSES, MAX_NAME
from covid_xray.errors import CONTROL, UserError
from covid_xray.networks.archive import bomb
from covid_xray.networks.layer_groups import LayeredNetwork
from covid_xray.networks.torchxrayvision import RESAVE

FILE_ENDINGS = (".pt", ".pth", ".safetensors", ".ckpt", ".tar", ".bin")
CLASS_NAMES = "class_names"  # key of a checkpoint
# Keys under which published files keep their tensors.
_NESTED = ("state_dict", "model_state_dict", "model")


def load_weights(network: nn.Module, weights: str, class_names: Sequence[str] = ()) -> None:
    """Load pretrained weights into a network, in place, and print what matched.

    Args:
        network: A network with layer groups. It gets the attributes ``mean`` and ``std`` of a run that it starts from.
        weights: A checkpoint or safetensors export of this project: the body, and the head if it has the same classes.
            Or what the network's own ``load_weights`` accepts, such as a weights name or a file. ``DEFAULT`` is the
            network's best known weights, and changes nothing in a network that has none.
        class_names: Classes in the order of the network's logits; empty if they are not known.

    Raises:
        UserError: If the network has no pretrained weights, or they cannot be loaded.
    """
    path = Path(weights)
    given = read_weights(path) if path.is_file() else Weights({})
    if any(name.startswith("network.") for name in given.state):
        _load_run_weights(network, given, weights, tuple(class_names))
        return
    load = getattr(network, "load_weights", None)
    if callable(load):
        load(weights)
    elif weights != "DEFAULT":
        raise UserError(f"weights={weights}: {type(network).__name__} has no load_weights(); use weights=null")


def _load_run_weights(network: nn.Module, given: "Weights", origin: str, class_names: tuple[str, ...]) -> None:
    groups = network.layer_groups() if isinstance(network, LayeredNetwork) else {}
    in_head = {id(tensor) for part in list(groups.values())[-1:] for module in part for tensor in _tensors(module)}
    head = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in in_head}
    fits = all(
        (other := given.state.get(f"network.{name}")) is not None and other.shape == tensor.shape
        for name, tensor in head.items()
    )
    same_classes = bool(class_names) and given.class_names == class_names
    load_matching(network, given.state, origin, () if fits and same_classes else tuple(head))
    if class_names and not same_classes:
        theirs = ", ".join(given.class_names) or "unknown"
        print(f"The head is new: the classes of {origin} are {theirs}, and those of this data {', '.join(class_names)}")
    for name in ("mean", "std"):  # the images must be normalised as those that the body was trained on
        known = given.state.get(name)
        if known is not None and known.shape == (1, 3, 1, 1) and not isinstance(getattr(network, name, None), Tensor):
            setattr(network, name, tuple(known.flatten().tolist()))


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
    elif Path(weights).is_file() or Path(weights).suffix in FILE_ENDINGS:
        state, origin = read_state_dict(Path(weights)), weights
    else:
        raise UserError(
            f"weights={weights!r} is neither a file (.pt, .pth, .safetensors) nor one of torchvision's weights "
            f"for {architecture} ({', '.join(sorted(names))}); use null for random weights"
        )
    load_matching(body, state, origin, what=architecture)


@dataclass(frozen=True)
class Weights:
    """Content of a file of weights.

    Attributes:
        state: Tensors by name.
        class_names: Name of every logit; empty in files of other programs and of older versions.
    """

    state: dict[str, Tensor]
    class_names: tuple[str, ...] = ()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of `read_weights`."""
    return read_weights(path).state


def read_weights(path: Path) -> Weights:
    """Read tensors, and the class names beside them, from a .safetensors or torch file, with ``weights_only``.

    Raises:
        UserError: If the file is missing, damaged or holds anything but tensors by name.
    """
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    names: Any = None
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = json.loads((file.metadata() or {}).get("classes", "null"))
                state: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
        else:
            if reason := bomb(path):
                raise UserError(f"weights file {path} cannot be read: {reason}; save it with torch.save")
            state = torch.load(path, map_location="cpu", weights_only=True)
            names = state.get(CLASS_NAMES) if isinstance(state, dict) else None
    except UserError:
        raise
    except Exception as error:  # on damaged files torch and safetensors raise nearly any exception
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        reason = f"it names {code[1]} and could run code" if code else f"it is damaged, or no weights: {_cause(error)}"
        remedy = RESAVE if code and code[1].startswith("torchxrayvision.") else ""
        raise UserError(f"weights file {path} cannot be read as tensors ({reason}){remedy}") from None
    for key in _NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    named = isinstance(state, dict) and all(isinstance(key, str) for key in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights file {path} holds no state dict (tensors by name)")
    return Weights(dict(state), _class_names(names))


def _class_names(names: object) -> tuple[str, ...]:
    """The class names that a file of this project has; empty if they are no such names, as in files of others."""
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    sound = all(0 < len(name) <= MAX_NAME and not CONTROL.search(name) for name in texts)
    whole = isinstance(names, list) and len(set(texts)) == len(names) and 2 <= len(names) <= MAX_CLASSES
    return tuple(texts) if sound and whole else ()


def _cause(error: BaseException) -> str:
    """The first line of an error; torch's first line about a pickle advises to run its code."""
    return type(error).__name__ if isinstance(error, pickle.UnpicklingError) else first_line(error)


def _fetch(architecture: str, name: str) -> dict[str, Tensor]:
    url: str = models.get_model_weights(architecture)[name].url
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"cannot fetch the weights {name} of {architecture} ({first_line(error)}); with a network, download {url} "
            f"to {target}, or set weights=FILE to a local state dict, or weights=null for random weights"
        ) from None
    return state


def load_matching(
    module: nn.Module, state: dict[str, Tensor], origin: str, new: Sequence[str] = (), what: str = "the network"
) -> None:
    """Load the tensors that a module expects, under the prefix that most of them have (``module.``, ``model.``, ...).

    Args:
        module: The module, changed in place.
        state: Tensors by name; other tensors are not used.
        origin: Where they come from, for messages.
        new: Names that keep their values, such as those of a new head.
        what: Name of the module, for messages.

    Raises:
        UserError: If a tensor that is not new is missing, or has another shape or kind of number.
    """
    expected = module.state_dict()
    prefixes = Counter(
        key[: len(key) - len(name)]
        for key in state
        for name in (".".join(key.split(".")[i:]) for i in range(key.count(".") + 1))
        if name in expected
    )
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    given = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    wanted = {name: tensor for name, tensor in expected.items() if name not in new}
    found = {name: given[name] for name in wanted if name in given and _alike(given[name], wanted[name])}
    # Counters of BatchNorm are absent from some published files and matter only for a momentum of None.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        unlike = [name for name in missing if name in given]
        detail = f"; {unlike[0]} has another shape or type" if unlike else ""
        raise UserError(
            f"{origin} does not fit {what}: {len(found)} of {len(expected)} tensors match, "
            f"missing {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}{detail}"
        )
    module.load_state_dict(found, strict=False)
    kept = f"; new: {', '.join(new[:2])}{' ...' if len(new) > 2 else ''}" if new else ""
    print(f"Weights: {len(found)} of {len(expected)} tensors of {what} from {origin}{kept}")


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether tensors have one shape and are both floating-point numbers, of any precision, or both not."""
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _tensors(part: nn.Module | nn.Parameter) -> Iterator[Tensor]:
    """Parameters and buffers."""
    if isinstance(part, nn.Parameter):
        yield part
    else:
        yield from part.parameters()
        yield from part.buffers()


def first_line(error: BaseException) -> str:
    """First line of an error's message, at most 200 characters."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
