"""Weights of torchxrayvision's DenseNet121, whose images have one channel, from -1024 to 1024.

Source: Cohen et al. 2022, TorchXRayVision. Its names of parameters are those of torchvision and timm.
"""

from torch import Tensor

# Of pixels in [0, 1]: what torchxrayvision's ``normalize`` computes, (2 * pixel - 1) * 1024.
MEAN, STD = (0.5,) * 3, (1 / 2048,) * 3
_FIRST, _PATHOLOGIES = "features.conv0.weight", 18
# The published files hold a whole module, which only code can read.
RESAVE = (
    "; where torchxrayvision is installed, save the tensors in Python: import torch, torchxrayvision as xrv; "
    'torch.save(xrv.models.DenseNet(weights="densenet121-res224-all").state_dict(), "xrv.pt")'
)


def three_channels(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors for images whose three channels are equal; None if they are not torchxrayvision's.

    A third of the first convolution's weights in each channel gives the same sum.

    Args:
        state: Tensors by name.
    """
    convolution = next((name for name in state if name.endswith(_FIRST)), "")
    classifier = state.get(f"{convolution.removesuffix(_FIRST)}classifier.bias")
    weight = state.get(convolution)
    if weight is None or classifier is None or classifier.shape != (_PATHOLOGIES,):
        return None
    if weight.ndim != 4 or weight.shape[1] != 1:
        return None
    return {**state, convolution: weight.repeat(1, 3, 1, 1) / 3}
