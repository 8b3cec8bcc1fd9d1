"""Phases, rates and the one-cycle shape."""

import itertools
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

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
def test_every_epoch_is_in_one_phase(epochs: list[int]) -> None:
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


RATES = st.floats(1e-8, 1.0)
MAX_LRS = st.one_of(
    RATES,
    st.lists(RATES, min_size=2, max_size=3),
    RATES.map(lambda rate: f"slice({rate!r})"),
    st.tuples(RATES, RATES).map(lambda pair: f"slice({pair[0]!r}, {pair[1]!r})"),
)
PHASES = st.builds(
    lambda size, epochs, trains, max_lr: phase(image_size=size, epochs=epochs, trains=trains, max_lr=max_lr),
    st.integers(32, 512),
    st.integers(1, 5),
    st.sampled_from(["all", "head", ["early", "head"]]),
    MAX_LRS,
)


def named_phases(count: int) -> st.SearchStrategy[dict[str, Phase]]:
    """A number of phases with any names."""
    names = st.lists(st.text(min_size=1, max_size=8), min_size=count, max_size=count, unique=True)
    phases = st.lists(PHASES, min_size=count, max_size=count)
    return st.builds(lambda keys, values: dict(zip(keys, values, strict=True)), names, phases)


ANY_PHASES = st.sampled_from([1, 2, 5]).flatmap(named_phases)


@given(ANY_PHASES, st.floats(1e-3, 1e3))
def test_lr_scale_multiplies_every_rate(phases: dict[str, Phase], scale: float) -> None:
    plain, scaled = Schedule(phases), Schedule(phases, lr_scale=scale)
    assert scaled.phases == plain.phases == phases
    for each in phases.values():
        peaks = plain.max_lrs(each, 3)
        assert peaks == each.group_max_lrs(3), "a scale of 1 changes no bit"
        assert scaled.max_lrs(each, 3) == pytest.approx([scale * peak for peak in peaks], rel=1e-12)
    for epoch in range(plain.epochs):
        for progress in (0.0, 0.3, 0.9):
            rates = plain.learning_rates(epoch, progress, 3)
            expected = pytest.approx([scale * rate for rate in rates], rel=1e-12)
            assert scaled.learning_rates(epoch, progress, 3) == expected
            assert scaled.momentum(progress) == plain.momentum(progress)


@given(ANY_PHASES, st.integers(1, 5))
def test_uniform_rates_are_those_of_the_last_group(phases: dict[str, Phase], n_groups: int) -> None:
    n_groups = n_groups if all(not isinstance(each.max_lr, list) for each in phases.values()) else 3
    plain, uniform = Schedule(phases), Schedule(phases, rates="uniform")
    assert uniform.phases == phases
    for each in phases.values():
        last = each.group_max_lrs(n_groups)[-1]
        assert uniform.max_lrs(each, n_groups) == (last,) * n_groups
    for epoch in range(plain.epochs):
        rates = plain.learning_rates(epoch, 0.3, n_groups)
        assert uniform.learning_rates(epoch, 0.3, n_groups) == (rates[-1],) * n_groups


@given(ANY_PHASES, st.sampled_from(["progressive", "first", "last"]))
def test_sizes_change_the_image_sizes_only(phases: dict[str, Phase], sizes: str) -> None:
    schedule = Schedule(phases, sizes=sizes)
    given_sizes = [each.image_size for each in phases.values()]
    expected = {
        "progressive": given_sizes,
        "first": given_sizes[:1] * len(phases),
        "last": given_sizes[-1:] * len(phases),
    }[sizes]
    assert [each.image_size for each in schedule.phases.values()] == expected
    assert schedule.max_image_size == max(expected)
    assert list(schedule.phases) == list(phases)
    for name, each in schedule.phases.items():
        assert asdict(each) | {"image_size": 0} == asdict(phases[name]) | {"image_size": 0}
    assert [schedule.at(epoch).phase.image_size for epoch in range(schedule.epochs)] == [
        size for size, each in zip(expected, phases.values(), strict=True) for _ in range(each.epochs)
    ]


@given(
    ANY_PHASES,
    st.floats(1e-3, 1e3),
    st.sampled_from(["discriminative", "uniform"]),
    st.sampled_from(["progressive", "first", "last"]),
)
def test_schedule_can_be_made_again_from_its_settings(
    phases: dict[str, Phase], scale: float, rates: str, sizes: str
) -> None:
    """As a run does from its ``config.yaml``."""
    schedule = Schedule(phases, lr_scale=scale, rates=rates, sizes=sizes)
    assert Schedule(**asdict(schedule)) == schedule
    for each in schedule.phases.values():
        peaks = [scale * peak for peak in each.group_max_lrs(3)]
        expected = peaks[-1:] * 3 if rates == "uniform" else peaks
        assert schedule.max_lrs(each, 3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("accumulate", "message"),
    [
        (0, "accumulate must be a whole number of at least 1"),
        (True, "accumulate must be a whole number of at least 1"),
        (2.0, "accumulate must be a whole number of at least 1"),
        (3, "accumulate=3 must divide batch_size=8 into equal parts of at least 2 images"),
        (8, "accumulate=8 must divide batch_size=8 into equal parts of at least 2 images"),
    ],
)
def test_wrong_accumulation_is_refused(accumulate: object, message: str) -> None:
    with pytest.raises(UserError) as info:
        Schedule({"only": {**asdict(phase()), "accumulate": accumulate}})  # type: ignore[dict-item]
    assert str(info.value).startswith(f"schedule.phases.only.{message}")


def test_parts_of_a_batch_are_divided_among_the_processes() -> None:
    schedule = Schedule({"only": phase(accumulate=2)})
    schedule.check(GROUPS, 2)
    with pytest.raises(UserError, match="each with accumulate=2: make it a multiple of 8, with at least 2 images each"):
        schedule.check(GROUPS, 4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_whole_schedule_by_hand(count: int) -> None:
    sizes, peaks = [64, 96, 80, 128, 112], [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]
    phases = {
        f"step {number}": phase(image_size=sizes[number], epochs=number + 1, max_lr=f"slice({peaks[number]})")
        for number in range(count)
    }
    schedule = Schedule(phases, lr_scale=2, rates="uniform", sizes="last")
    assert schedule.max_image_size == sizes[count - 1]
    assert [schedule.max_lrs(each, 3) for each in schedule.phases.values()] == [(2 * p,) * 3 for p in peaks[:count]]
    half = Schedule(phases, lr_scale=0.5, sizes="first")
    assert {each.image_size for each in half.phases.values()} == {64}
    assert [half.max_lrs(each, 3) for each in half.phases.values()] == [(p / 20, p / 20, p / 2) for p in peaks[:count]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scale": 0}, "schedule.lr_scale must be a number above 0, not 0"),
        ({"lr_scale": -1.0}, "schedule.lr_scale must be a number above 0, not -1.0"),
        ({"lr_scale": True}, "schedule.lr_scale must be a number above 0, not True"),
        ({"lr_scale": math.inf}, "schedule.lr_scale must be a number above 0, not inf"),
        ({"lr_scale": "2"}, "schedule.lr_scale must be a number above 0, not '2'"),
        ({"rates": "slow"}, "schedule.rates must be one of discriminative, uniform, not 'slow'"),
        ({"rates": None}, "schedule.rates must be one of discriminative, uniform, not None"),
        ({"sizes": "second"}, "schedule.sizes must be one of progressive, first, last, not 'second'"),
        ({"sizes": 64}, "schedule.sizes must be one of progressive, first, last, not 64"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as info:
        Schedule({"only": phase()}, **settings)  # type: ignore[arg-type]
    assert str(info.value) == message


@pytest.mark.parametrize("name", ["article", "recommended", "small", "medium", "demo", "tiny"])
def test_configured_schedules_have_the_settings(name: str) -> None:
    folder = Path(__file__).parent.parent / "conf/schedule"
    settings: Any = OmegaConf.load(folder / f"{name}.yaml")
    while "defaults" in settings:
        settings = OmegaConf.merge(OmegaConf.load(folder / f"{settings.pop('defaults')[0]}.yaml"), settings)
    node: Any = OmegaConf.to_container(settings)
    assert node.pop("_target_") == "covid_xray.schedule.Schedule"
    node |= {"lr_scale": 3.0, "rates": "uniform", "sizes": "last"}
    schedule, plain = Schedule(**node), Schedule(node["phases"])
    last = list(plain.phases.values())[-1].image_size
    for each, before in zip(schedule.phases.values(), plain.phases.values(), strict=True):
        assert each.image_size == last
        assert schedule.max_lrs(each, 3) == pytest.approx([3 * before.group_max_lrs(3)[-1]] * 3)
