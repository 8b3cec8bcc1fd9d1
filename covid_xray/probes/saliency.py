"""Saliency maps: Grad-CAM, and a check that the maps depend on the trained weights."""

import copy
import math
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
        correlations: Spearman's rho of each image (n,); nan if a map is constant.
        mean: Mean of the defined correlations; nan if there are none.
        passed: Whether the mean is below 0.5, so the maps depend on the weights. None if the mean is nan.
        text: The result in one sentence.
    """

    correlations: tuple[float, ...]
    mean: float
    passed: bool | None
    text: str


def grad_cam(network: nn.Module, images: Tensor, target_classes: Tensor) -> Tensor:
    """Compute Grad-CAM heat maps of the evidence for a class.

    The network runs in evaluation mode. The maps are independent of frozen parameters and of the gradient mode of the
    caller. Training modes and gradients of the network do not change.

    Args:
        network: Network with ``features(images)``, which returns a feature map (n, channels, h', w') or tokens
            (n, tokens, channels), and with ``head(features)``, which returns logits (n, c). The tokens form a square
            grid, with at most one class token in front. If the head uses only the class token, all maps are 0.
        images: Normalised images (n, channels, h, w), on the device of the network.
        target_classes: Class to explain for each image (n,), from 0 to c - 1.

    Returns:
        Maps (n, h, w) in [0, 1], float32, each divided by its maximum. A map without evidence for the class is 0.

    Raises:
        UserError: If the network has no ``features`` and ``head``, its features have another shape, or the lengths
            differ.

    Source: Selvaraju et al. 2017.
    """
    coarse = F.relu(_signed_maps(network, images, target_classes))
    fine = F.interpolate(coarse[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peak = fine.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, fine / peak.clamp_min(torch.finfo(fine.dtype).tiny), 0.0)


def randomised_weights_check(network: nn.Module, images: Tensor, target_classes: Tensor, seed: int = 0) -> SanityCheck:
    """Compare the maps with the maps of a copy with random weights. Maps that do not change explain nothing.

    Args:
        network: See `grad_cam`. It does not change.
        images: See `grad_cam`.
        target_classes: See `grad_cam`.
        seed: Seed of the random weights. The global generators do not change.

    Raises:
        UserError: See `grad_cam`.

    Source: Adebayo et al. 2018, with all layers randomised at once. Spearman's rank correlation is computed at the
    resolution of the feature map and before the ReLU, because the ReLU creates ties.
    """
    trained = _signed_maps(network, images, target_classes).flatten(1).cpu().numpy()
    other = _signed_maps(randomised(network, seed), images, target_classes).flatten(1).cpu().numpy()
    with np.errstate(all="ignore"):
        correlations = tuple(
            float(stats.spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
            for a, b in zip(trained, other, strict=True)
        )
    defined = [value for value in correlations if not np.isnan(value)]
    if not defined:
        return SanityCheck(correlations, float("nan"), None, "No sanity check of the maps: all maps are constant.")
    mean = float(np.mean(defined))
    passed = mean < SAME_MAP
    finding = "depend on the trained weights" if passed else "show the architecture, not the trained weights"
    text = (
        f"Maps of the trained network and of a copy with random weights have a rank correlation of {mean:.2f} over "
        f"{len(defined)} image{'' if len(defined) == 1 else 's'}: the maps {finding} (rule: below {SAME_MAP})."
    )
    return SanityCheck(correlations, mean, passed, text)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Copy a network and draw the weights of each layer from its default initialisation.

    Parameters that belong to no such layer, as position embeddings, keep their values.
    """
    other = copy.deepcopy(network)
    devices = list({tensor.device for tensor in network.parameters() if tensor.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for module in other.modules():
            # nn.MultiheadAttention has only the private name.
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    return other


def _signed_maps(network: nn.Module, images: Tensor, target_classes: Tensor) -> Tensor:
    """Maps (n, h', w') at the resolution of the feature map; evidence against the class is negative."""
    name = type(network).__name__
    extract, head = getattr(network, "features", None), getattr(network, "head", None)
    if not callable(extract) or not callable(head):
        raise UserError(f"Grad-CAM: {name} needs the methods features(images) and head(features)")
    if len(target_classes) != len(images):
        raise UserError(f"Grad-CAM: {len(images)} images, but {len(target_classes)} classes")
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.inference_mode(False), torch.enable_grad():
            # Detached, the features need a gradient only in the head, also if all layers before it are frozen.
            features = extract(images.clone() if images.is_inference() else images).detach()
            feature_map = _as_map(features, name)
            logits = head(features.requires_grad_())
            selected = logits.gather(1, target_classes.clone().to(logits.device).long()[:, None])
            (gradients,) = torch.autograd.grad(selected.float().sum(), features)
    finally:
        for module, mode in modes.items():
            module.training = mode
    weights = _as_map(gradients, name).float().mean(dim=(2, 3), keepdim=True)
    return (weights * feature_map.detach().float()).sum(dim=1)


def _as_map(features: Tensor, name: str) -> Tensor:
    """View features as a map (n, channels, h', w'). Tokens (n, tokens, channels) without class token form a square."""
    if features.ndim == 4:
        return features
    tokens = features.shape[1] if features.ndim == 3 else 0
    for extra in (0, 1):
        side = math.isqrt(max(0, tokens - extra))
        if side > 0 and side**2 == tokens - extra:
            return features[:, extra:].transpose(1, 2).reshape(len(features), features.shape[2], side, side)
    raise UserError(
        f"Grad-CAM: features() of {name} returns shape {tuple(features.shape)}; it needs (n, channels, h, w) or "
        "(n, tokens, channels) with a square number of tokens, after at most one class token"
    )
