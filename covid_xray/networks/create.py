"""Make a network by name, for Python; the commands make it from the config group ``model``."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import nn

from covid_xray.errors import UserError
from covid_xray.networks.resnet import ARCHITECTURES, TransferResNet
from covid_xray.networks.weights import load_weights


def create_network(
    name: str, num_classes: int, weights: str | None = None, class_names: Sequence[str] = (), **settings: Any
) -> nn.Module:
    """Make a network.

    Args:
        name: A ResNet such as ``resnet50``, or the import path of a class such as ``my_package.MyNetwork``.
        num_classes: Number of logits.
        weights: Pretrained weights; see `covid_xray.networks.weights.load_weights`. None for random weights.
        class_names: Classes in the order of the logits: the head of another run is kept if it has the same.
        **settings: Other arguments of the class.

    Returns:
        The network. Its attribute ``config`` holds the import path and the settings, so that
        `covid_xray.runs.load.load_run` can make the network again.

    Raises:
        UserError: If there is no such network, or the weights cannot be loaded.
    """
    if name in ARCHITECTURES:
        target, settings = f"{TransferResNet.__module__}.{TransferResNet.__name__}", {"architecture": name} | settings
    else:
        target = name
    module, _, attribute = target.rpartition(".")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"there is no network {name!r} ({error}); use one of {', '.join(ARCHITECTURES)}, or the import path of a "
            f"class such as my_package.MyNetwork"
        ) from None
    network: nn.Module = factory(num_classes=num_classes, **settings)
    if weights is not None:
        load_weights(network, weights, class_names)
    network.config = {"_target_": target, **settings}  # type: ignore[assignment]
    return network
