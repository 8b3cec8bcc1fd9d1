"""The estimate of the time left for the whole schedule."""

import pytest

from covid_xray.schedule import Phase, Schedule
from covid_xray.training.callbacks.console import FROZEN_COST, VALIDATION_COST, remaining_seconds

SCHEDULE = Schedule(
    {
        "frozen": Phase(image_size=64, batch_size=10, epochs=1, trains="head", max_lr=1e-3),
        "all": Phase(image_size=128, batch_size=10, epochs=2, trains="all", max_lr=1e-3),
    }
)


def test_time_left_in_the_last_epoch_is_that_of_its_own_images() -> None:
    left = remaining_seconds(SCHEDULE, epoch=2, batches_done=4, rate=20.0, n_train=100, n_val=30)
    assert left == pytest.approx((60 + VALIDATION_COST * 30) / 20)


def test_cost_of_later_phases_is_proportional_to_their_pixels() -> None:
    left = remaining_seconds(SCHEDULE, epoch=0, batches_done=10, rate=10.0, n_train=100, n_val=0)
    assert left == pytest.approx(2 * 100 / 10 * 4 / FROZEN_COST)


def test_time_left_never_rises() -> None:
    left = [
        remaining_seconds(SCHEDULE, epoch, batch, 10.0 if epoch == 0 else 10.0 * FROZEN_COST / 4, 100, 20)
        for epoch in range(3)
        for batch in range(1, 11)
    ]
    assert left == sorted(left, reverse=True)
