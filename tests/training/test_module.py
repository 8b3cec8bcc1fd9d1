"""Normalisation, masking and checks of the LightningModule."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet
from covid_xray.probes.shortcuts import blacken_centre
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.module import XrayClassifier

SCHEDULE = Schedule({"only": Phase(32, 8, 1, "all", 1e-3)})
CLASSES = ["a", "b", "c"]
STATISTICS: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
MODULE = XrayClassifier(TransferResNet(3, "resnet18"), SCHEDULE, CLASSES, **STATISTICS)
MASKED = XrayClassifier(MODULE.network, SCHEDULE, CLASSES, **STATISTICS, mask_centre=0.75)
SIZES = (st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))


def greys(batch: int, height: int, width: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 1, height, width), dtype=torch.uint8, generator=random)


@given(*SIZES)
def test_greys_are_normalised_to_the_last_bit(batch: int, height: int, width: int, seed: int) -> None:
    images = greys(batch, height, width, seed)
    pixels = MODULE.normalise(images)
    assert torch.equal(pixels, (images.float() / 255 - MODULE.mean) / MODULE.std)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


@given(*SIZES)
def test_mask_makes_the_centre_black(batch: int, height: int, width: int, seed: int) -> None:
    images = greys(batch, height, width, seed)
    before = images.clone()
    masked = MASKED.mask(images)
    assert torch.equal(images, before), "the argument must not change"
    assert masked.dtype == torch.uint8
    assert np.array_equal(masked[:, 0].numpy(), blacken_centre(images[:, 0].numpy(), 0.75))
    assert torch.equal(MASKED.normalise(images), MODULE.normalise(masked))


def test_masked_centre_is_the_normalised_black() -> None:
    images = greys(2, 32, 40, 0).clamp(min=1)
    pixels, borders = MASKED.normalise(images), MODULE.normalise(images)
    centre = torch.zeros(32, 40, dtype=torch.bool)
    centre[4:28, 5:35] = True  # three quarters of either side
    black = (-MODULE.mean / MODULE.std).expand_as(pixels)
    assert torch.equal(pixels[..., centre], black[..., centre])
    assert torch.equal(pixels[..., ~centre], borders[..., ~centre])
    assert (pixels[..., ~centre] != black[..., ~centre]).all()
    with torch.inference_mode():
        MASKED.network.eval()
        other_centre = images.clone()
        other_centre[..., centre] = 255
        assert torch.equal(MASKED(images), MASKED(other_centre)), "logits depend on the borders only"
        assert not torch.equal(MODULE(images), MODULE(other_centre))


def test_no_mask_is_no_copy() -> None:
    images = greys(1, 8, 8, 0)
    assert MODULE.mask(images) is images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_centre": 0}, "mask_centre must be above 0 and below 1, or null, not 0"),
        ({"mask_centre": 1.0}, "mask_centre must be above 0 and below 1, or null, not 1.0"),
        ({"mask_centre": True}, "mask_centre must be above 0 and below 1, or null, not True"),
        ({"mask_centre": "most"}, "mask_centre must be above 0 and below 1, or null, not 'most'"),
        ({"compile_mode": "fast"}, "compile must be null or one of default, "),
        (
            {"schedule": Schedule({"one": dataclasses.replace(SCHEDULE.phases["only"], trains="tail")})},
            "schedule.phases.one.trains: 'tail' is no layer group of this model; use 'all' or early, late, head",
        ),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    arguments = {"network": MODULE.network, "schedule": SCHEDULE, "class_names": CLASSES} | settings
    with pytest.raises(UserError) as info:
        XrayClassifier(**arguments)  # type: ignore[arg-type]
    assert str(info.value).startswith(message)
    assert "\n" not in str(info.value)


def test_recall_of_a_class_without_images_is_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr(MODULE, "log_dict", lambda values, **_: logged.update(values))
    metrics = MODULE.val_metrics
    metrics.reset()
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    for name in ("accuracy", "f1_weighted", "recall", "confusion"):
        metrics[name].update(logits, torch.tensor([0, 0]))
    metrics["loss"].update(torch.tensor([1.0]))
    MODULE._log(metrics, "val")
    assert float(logged["val/recall/a"]) == 0.5
    assert np.isnan([float(logged["val/recall/b"]), float(logged["val/recall/c"])]).all()
