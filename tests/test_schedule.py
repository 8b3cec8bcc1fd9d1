"""Phases, rates and the one-cycle shape."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.errors import UserError
from covid_xray.schedule import Phase, Schedule, geometric_spread, one_cycle

GROUPS = ("early", "late", "head")


def phase(**changes: object) -> Phase:
    settings = {"image_size": 64, "batch_size": 8, "epochs": 2, "trains": "all", "max_lr": 1e-3}
    return Phase(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("max_lr", "expected"),
    [
        (4e-4, (4e-4, 4e-4, 4e-4)),
        ("slice(2e-3)", (2e-4, 2e-4, 2e-3)),
        ("slice(1e-6, 4e-4)", (1e-6, 2e-5, 4e-4)),
        ([1e-5, 8e-5], (1e-5, math.sqrt(8e-10), 8e-5)),
        ([1e-4, 3e-4, 1e-3], (1e-4, 3e-4, 1e-3)),
    ],
)
def test_discriminative_rates(max_lr: object, expected: tuple[float, ...]) -> None:
    assert phase(max_lr=max_lr).group_max_lrs(3) == pytest.approx(expected)


def test_four_rates_do_not_fit_three_groups() -> None:
    with pytest.raises(UserError, match="max_lr has 4 values"):
        phase(max_lr=[1e-4] * 4).group_max_lrs(3)


@given(st.floats(1e-8, 1), st.floats(1e-8, 1), st.integers(2, 9))
def test_geometric_spread_has_one_ratio(first: float, last: float, n: int) -> None:
    values = geometric_spread(first, last, n)
    assert values[0] == first
    assert values[-1] == pytest.approx(last)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert ratios == pytest.approx([ratios[0]] * (n - 1))


@given(st.floats(0, 1), st.floats(0.05, 0.95))
def test_one_cycle_stays_between_its_values_and_peaks_at_pct_start(progress: float, pct_start: float) -> None:
    assert 0.1 - 1e-9 <= one_cycle(progress, pct_start, 0.2, 1.0, 0.1) <= 1.0 + 1e-9
    assert one_cycle(pct_start, pct_start, 0.2, 1.0, 0.1) == pytest.approx(1.0)
    assert one_cycle(0, pct_start, 0.2, 1.0, 0.1) == pytest.approx(0.2)
    assert one_cycle(1, pct_start, 0.2, 1.0, 0.1) == pytest.approx(0.1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_every_epoch_lies_in_one_phase(epochs: list[int]) -> None:
    schedule = Schedule({f"p{i}": phase(epochs=n) for i, n in enumerate(epochs)})
    assert schedule.epochs == sum(epochs)
    positions = [schedule.at(epoch) for epoch in range(schedule.epochs)]
    expected = [(i, e) for i, n in enumerate(epochs) for e in range(n)]
    assert [(p.index, p.epoch_in_phase) for p in positions] == expected


def test_progress_runs_from_0_to_1_in_each_phase() -> None:
    schedule = Schedule({"a": phase(epochs=2), "b": phase(epochs=1)})
    steps = [schedule.progress(epoch, batch, 4) for epoch in range(3) for batch in range(4)]
    assert steps == [i / 8 for i in range(8)] + [i / 4 for i in range(4)]


def test_trained_groups() -> None:
    assert phase(trains="all").trained_groups(GROUPS) == GROUPS
    assert phase(trains="head").trained_groups(GROUPS) == ("head",)
    assert phase(trains=["head", "late"]).trained_groups(GROUPS) == ("late", "head")
    with pytest.raises(UserError, match="'tail' is no layer group"):
        phase(trains="tail").trained_groups(GROUPS)
