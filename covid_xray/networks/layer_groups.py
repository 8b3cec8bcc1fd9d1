"""Layer groups: what training needs of a network, parameter groups for the optimiser, and freezing."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from covid_xray.errors import UserError
from covid_xray.schedule import Phase

LayerGroups = dict[str, list[nn.Module | nn.Parameter]]


@runtime_checkable
class LayeredNetwork(Protocol):
    """The contract of a network: logits from images, a feature map on the way, and layer groups.

    ``forward(images)`` must equal ``head(features(images))``. A network that can start from pretrained weights also
    has ``load_weights(weights: str)``; see `covid_xray.networks.weights`.
    """

    def layer_groups(self) -> LayerGroups:
        """Modules (or parameters) of every group, by name, from the image to the head; together every parameter."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Last feature map (batch, c, h, w), or tokens (batch, n, c), of normalised images (batch, 3, h, w)."""
        ...

    def head(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) of what `features` returns."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, h, w)."""
        ...


def check_network(network: nn.Module) -> None:
    """Check that a network satisfies `LayeredNetwork`.

    Raises:
        UserError: Naming the class and what is missing: a method, or a parameter that no layer group holds.
    """
    name = type(network).__name__
    for method in ("layer_groups", "features", "head"):
        if not callable(getattr(network, method, None)):
            raise UserError(f"model: {name} has no {method}; see covid_xray.networks.layer_groups.LayeredNetwork")
    assert isinstance(network, LayeredNetwork)
    grouped = [id(p) for parts in network.layer_groups().values() for p in _parameters(parts)]
    if lost := [key for key, parameter in network.named_parameters() if id(parameter) not in grouped]:
        raise UserError(f"model: layer_groups() of {name} leaves out {lost[0]}, which would never train")
    if len(set(grouped)) < len(grouped):
        raise UserError(f"model: layer_groups() of {name} lists a parameter twice")


@torch.no_grad()
def feature_channels(network: LayeredNetwork) -> int:
    """Channels of the feature map or tokens of a network in training mode, on the CPU; its state is not changed."""
    assert isinstance(network, nn.Module)
    size = getattr(network, "input_size", None) or 64
    shape = network.eval().features(torch.zeros(1, 3, size, size)).shape
    network.train()
    return int(shape[1] if len(shape) == 4 else shape[2])


def parameter_groups(groups: LayerGroups) -> list[dict[str, Any]]:
    """One optimiser parameter group per layer group, with its name, frozen parameters included.

    The optimiser must hold every parameter from the start, so that its state can be restored in any phase.
    """
    return [{"name": name, "params": list(_parameters(parts))} for name, parts in groups.items()]


def freeze_for(phase: Phase, groups: LayerGroups) -> None:
    """Set ``requires_grad`` and the BatchNorm mode for a phase. Idempotent.

    Frozen groups keep training their BatchNorm scale, shift and running statistics if ``phase.train_bn`` (fastai's
    ``train_bn``). If not, BatchNorm outside the last group (the new head) is fixed in evaluation mode in every group,
    the usual way to fine-tune with small batches.
    """
    trained = phase.trained_groups(tuple(groups))
    last = list(groups)[-1]
    for name, parts in groups.items():
        for part in parts:
            if isinstance(part, nn.Parameter):
                part.requires_grad_(name in trained)
        for module in _submodules(parts):
            is_batch_norm = isinstance(module, _BatchNorm)
            fixed_batch_norm = is_batch_norm and not phase.train_bn and name != last
            trains = not fixed_batch_norm and (name in trained or (is_batch_norm and phase.train_bn))
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(trains)
            if is_batch_norm:
                module.train(not fixed_batch_norm)


def _submodules(parts: Sequence[nn.Module | nn.Parameter]) -> Iterable[nn.Module]:
    for part in parts:
        if isinstance(part, nn.Module):
            yield from part.modules()


def _parameters(parts: Sequence[nn.Module | nn.Parameter]) -> Iterable[nn.Parameter]:
    for part in parts:
        if isinstance(part, nn.Parameter):
            yield part
        else:
            yield from part.parameters()
