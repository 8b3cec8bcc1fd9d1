"""Metrics of parts of a test set, and the difference between two test sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covid_xray.metrics.comparison import unpaired_difference
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.groups import FEWEST_IN_WORST, group_metrics
from covid_xray.metrics.intervals import Interval, exact_interval, wilson_interval
from covid_xray.metrics.predictions import Predictions


def predictions(labels: list[int], predicted: list[int], patients: list[str] | None = None) -> Predictions:
    shares = np.eye(2)[predicted] * 0.6 + 0.2
    return Predictions.build(np.array(labels), shares, ["ill", "well"], patients=patients)


def test_groups_of_class_and_source() -> None:
    # Source x: ill 3 of 12, well 12 of 12; source y: ill 12 of 12, well 11 of 12; z: one wrong image.
    labels = [0] * 12 + [1] * 12 + [0] * 12 + [1] * 12 + [0]
    predicted = [0] * 3 + [1] * 9 + [1] * 12 + [0] * 12 + [1] * 11 + [0, 1]
    sources = ["x"] * 24 + ["y"] * 24 + ["z"]
    data = predictions(labels, predicted)
    found = group_metrics(data, sources, resamples=50)
    assert [(group.class_name, group.source, group.images) for group in found.groups[:2]] == [
        ("ill", "z", 1),
        ("ill", "x", 12),
    ]
    assert found.worst is found.groups[1], "one image is too few to be the worst group"
    assert found.worst.sensitivity == exact_interval(3, 12)
    assert "ill from x, 25.0 %" in found.text()
    assert list(found.sources) == ["x", "y", "z"]
    alone = estimate(data.select(range(24, 48)), 50)
    assert found.sources["y"].to_dict() == alone.to_dict()
    plain = found.to_dict()
    assert plain["worst"]["source"] == "x"
    assert len(plain["groups"]) == 5


def test_images_of_few_patients_are_no_worst_group() -> None:
    patients = [f"p{n // 3}" for n in range(3 * (FEWEST_IN_WORST - 1))]
    data = predictions([0] * len(patients), [1] * len(patients), patients)
    found = group_metrics(data, ["x"] * len(patients), resamples=20)
    assert found.worst is None
    assert "not defined" in found.text()


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from("xyz")), min_size=2, max_size=40))
def test_groups_partition_the_images(pairs: list[tuple[int, int, str]]) -> None:
    labels, predicted, sources = (list(part) for part in zip(*pairs, strict=True))
    found = group_metrics(predictions(labels, predicted), sources, resamples=2)
    assert sum(group.images for group in found.groups) == len(pairs)
    hits = sum(round(group.sensitivity.value * group.images) for group in found.groups)
    assert hits == sum(a == b for a, b in zip(labels, predicted, strict=True))
    values = [group.sensitivity.value for group in found.groups]
    assert values == sorted(values)


def test_difference_of_two_proportions_is_newcombes() -> None:
    # Newcombe 1998, table II, example (a): 56/70 and 48/80 with Wilson limits give 0.0524 to 0.3339.
    first, second = wilson_interval(48, 80), wilson_interval(56, 70)
    found = unpaired_difference(first, second)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    turned = unpaired_difference(second, first)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_difference_of_two_perfect_proportions_has_a_width_and_of_an_undefined_one_none() -> None:
    found = unpaired_difference(exact_interval(10, 10), exact_interval(20, 20))
    assert found.low < found.value == 0 < found.high
    missing = Interval(float("nan"), float("nan"), float("nan"), "", "no test image is a")
    assert unpaired_difference(exact_interval(1, 2), missing).reason == "no test image is a"


def test_difference_covers_the_truth() -> None:
    random, covered, rounds = np.random.default_rng(0), 0, 500
    for _ in range(rounds):
        first, second = exact_interval(random.binomial(60, 0.9), 60), exact_interval(random.binomial(40, 0.7), 40)
        found = unpaired_difference(first, second)
        covered += found.low <= -0.2 <= found.high
    assert covered / rounds >= 0.94
