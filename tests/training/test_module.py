"""The LightningModule's own arithmetic."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.networks.resnet import TransferResNet
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.module import XrayClassifier

SCHEDULE = Schedule({"only": Phase(32, 8, 1, "all", 1e-3)})
MODULE = XrayClassifier(
    TransferResNet(3, "resnet18"), SCHEDULE, ["a", "b", "c"], mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)
)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_greys_are_normalised_to_the_last_bit(batch: int, height: int, width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 1, height, width), dtype=torch.uint8, generator=random)
    pixels = MODULE.normalise(images)
    assert torch.equal(pixels, (images.float() / 255 - MODULE.mean) / MODULE.std)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
