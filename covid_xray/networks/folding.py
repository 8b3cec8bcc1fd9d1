"""BatchNorm folded into convolutions, which makes inference faster and changes its last bits."""

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from covid_xray.errors import UserError


def fold_batchnorm(network: nn.Module) -> int:
    """Fold every BatchNorm that follows a convolution into it, in place.

    In evaluation, BatchNorm multiplies and shifts each channel by constants; a convolution with other weights and
    another bias does the same in one pass over the memory.

    Args:
        network: In evaluation mode; it cannot be trained afterwards.

    Returns:
        How many were folded.

    Raises:
        UserError: If the network has none, or torch cannot trace it.

    Source: Jacob et al. 2018, section 3.2, with `torch.nn.utils.fusion.fuse_conv_bn_eval`.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:  # a network may be any code, of which torch raises nearly anything
        raise UserError(
            f"BatchNorm of {type(network).__name__} cannot be folded ({' '.join(str(error).split())[:200]}); use "
            f"fold_batchnorm=false"
        ) from None
    modules = dict(network.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        convolution = modules[str(before.target)]
        if isinstance(convolution, nn.Conv2d) and calls[str(before.target)] == calls[node.target] == 1:
            network.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, modules[node.target]))
            network.set_submodule(node.target, nn.Identity())
            folded += 1
    if not folded:
        raise UserError(f"{type(network).__name__} has no BatchNorm after a convolution; use fold_batchnorm=false")
    return folded
