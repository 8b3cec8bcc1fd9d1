"""Where the network looks: Grad-CAM, and whether the maps depend on what was learnt."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from covid_xray.errors import UserError

SAME_MAP = 0.5


@dataclass(frozen=True)
class SanityCheck:
    """Rank correlation between the maps of a trained network and of a copy with random weights.

    Attributes:
        correlations: Spearman's rho by image (n,); nan where a map is constant.
        mean: Mean of those that are defined; nan if none is.
        passed: Whether the maps depend on the weights: the mean is below 0.5. None if it is not defined.
        text: The finding in words.
    """

    correlations: tuple[float, ...]
    mean: float
    passed: bool | None
    text: str


def grad_cam(network: nn.Module, images: Tensor, target_classes: Tensor) -> Tensor:
    """Heat maps of what speaks for a class.

    Works in evaluation mode, whatever is frozen and whether or not gradients are enabled outside, and leaves no trace:
    modes and gradients are as before.

    Args:
        network: Has a ``body`` whose output is the last feature map (n, channels, h', w'); gives logits (n, c).
        images: Normalised images (n, channels, h, w), on the network's device.
        target_classes: Class to explain for each image (n,), from 0 to c - 1.

    Returns:
        Maps (n, h, w) in [0, 1], float32, each divided by its maximum; all 0 where nothing speaks for the class.

    Raises:
        UserError: If the network has no body with a feature map, or the lengths differ.

    Source: Selvaraju et al. 2017.
    """
    maps = F.relu(_signed_maps(network, images, target_classes))
    fine = F.interpolate(maps[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peak = fine.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, fine / peak.clamp_min(torch.finfo(fine.dtype).tiny), 0.0)


def randomised_weights_check(network: nn.Module, images: Tensor, target_classes: Tensor, seed: int = 0) -> SanityCheck:
    """Compare maps with those of a copy whose weights are all drawn anew: maps that stay are no explanation.

    Args:
        network: As for `grad_cam`; not changed.
        images: As for `grad_cam`.
        target_classes: As for `grad_cam`.
        seed: Seed of the new weights; the global generators are left as they are.

    Raises:
        UserError: As for `grad_cam`.

    Source: Adebayo et al. 2018, all layers at once, Spearman's rank correlation at the feature map's resolution, before
    what speaks against the class is cut off: ranks need values that differ.
    """
    trained = _signed_maps(network, images, target_classes).flatten(1).cpu().numpy()
    other = _signed_maps(randomised(network, seed), images, target_classes).flatten(1).cpu().numpy()
    with np.errstate(all="ignore"):
        pairs = [
            float(stats.spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
            for a, b in zip(trained, other, strict=True)
        ]
    defined = [pair for pair in pairs if not np.isnan(pair)]
    if not defined:
        text = "No sanity check of the maps: they are the same everywhere in the image."
        return SanityCheck(tuple(pairs), float("nan"), None, text)
    mean = float(np.mean(defined))
    passed = mean < SAME_MAP
    means = "the maps depend on what was learnt" if passed else "the maps show the architecture, not what was learnt"
    text = (
        f"Maps of the trained and of a randomised network have a rank correlation of {mean:.2f} over {len(defined)} "
        f"image{'' if len(defined) == 1 else 's'}: {means} (rule: below {SAME_MAP})."
    )
    return SanityCheck(tuple(pairs), mean, passed, text)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with every layer's weights drawn anew from its default initialisation."""
    other = copy.deepcopy(network)
    with torch.random.fork_rng(devices=_cuda_devices(network)):
        torch.manual_seed(seed)
        for module in other.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return other


def _signed_maps(network: nn.Module, images: Tensor, target_classes: Tensor) -> Tensor:
    """Maps (n, h', w') at the feature map's resolution; what speaks against the class is below 0."""
    body = getattr(network, "body", None)
    if not isinstance(body, nn.Module):
        raise UserError(f"Grad-CAM: {type(network).__name__} has no body to hook into")
    if len(target_classes) != len(images):
        raise UserError(f"Grad-CAM: {len(images)} images, but {len(target_classes)} classes")
    caught: list[Tensor] = []

    def cut_in(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # A new leaf here needs no gradient below: frozen or not, the body's graph is dropped at once.
        caught.append(output.detach().requires_grad_())
        return caught[-1]

    modes = {module: module.training for module in network.modules()}
    handle = body.register_forward_hook(cut_in)
    try:
        network.eval()
        with torch.inference_mode(False), torch.enable_grad():
            logits = network(images.clone() if images.is_inference() else images)
            if len(caught) != 1 or caught[0].ndim != 4:
                raise UserError(f"Grad-CAM: the body of {type(network).__name__} gives no single feature map")
            chosen = logits.gather(1, target_classes.clone().to(logits.device).long()[:, None])
            (gradients,) = torch.autograd.grad(chosen.float().sum(), caught[0])
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    weights = gradients.float().mean(dim=(2, 3), keepdim=True)
    return (weights * caught[0].detach().float()).sum(dim=1)


def _cuda_devices(network: nn.Module) -> list[torch.device]:
    return list({tensor.device for tensor in network.parameters() if tensor.is_cuda})
