"""Named parameter groups for discriminative learning rates, and what trains in a phase."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from covid_xray.schedule import Phase

LayerGroups = dict[str, list[nn.Module]]


def parameter_groups(groups: LayerGroups) -> list[dict[str, Any]]:
    """One optimiser parameter group per layer group, with its name; all parameters, whether frozen or not.

    The optimiser must hold every parameter from the start, so that its state can be restored in any phase.
    """
    return [{"name": name, "params": list(_parameters(modules))} for name, modules in groups.items()]


def freeze_for(phase: Phase, groups: LayerGroups) -> None:
    """Set what trains in a phase: ``requires_grad`` and the BatchNorm mode. Idempotent.

    Frozen groups keep training their BatchNorm scale, shift and running statistics if ``phase.train_bn`` (fastai's
    ``train_bn``). If not, BatchNorm outside the last group (the new head) is fixed in evaluation mode in every group,
    the usual way to fine-tune with small batches.
    """
    trained = phase.trained_groups(tuple(groups))
    last = list(groups)[-1]
    for name, modules in groups.items():
        for module in _submodules(modules):
            is_batch_norm = isinstance(module, _BatchNorm)
            fixed_batch_norm = is_batch_norm and not phase.train_bn and name != last
            trains = not fixed_batch_norm and (name in trained or (is_batch_norm and phase.train_bn))
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(trains)
            if is_batch_norm:
                module.train(not fixed_batch_norm)


def _submodules(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for module in modules:
        yield from module.modules()


def _parameters(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    for module in modules:
        yield from module.parameters()
