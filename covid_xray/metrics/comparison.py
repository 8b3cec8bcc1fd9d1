"""Comparison of two models on the same test images (paired), and of one model on two test sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from covid_xray.errors import UserError
from covid_xray.metrics.bootstrap import RESAMPLES, bootstrap
from covid_xray.metrics.calibration import BINS
from covid_xray.metrics.intervals import LEVEL, Interval, percentile_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import score


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of equal accuracy.

    Attributes:
        both: Number of images that both models classify correctly.
        only_a: Number of images that only the first model classifies correctly.
        only_b: Number of images that only the second model classifies correctly.
        neither: Number of images that no model classifies correctly.
        p: Two-sided exact p-value; 1 if ``only_a`` and ``only_b`` are 0.
        note: Which assumption of the test does not hold; empty if all hold.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    note: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Metrics of two models and their differences.

    Attributes:
        names: Names of the first and the second model.
        a: Metrics of the first model, by name.
        b: Metrics of the second model, by name.
        differences: Second minus first model, with a paired bootstrap interval, by name.
        mcnemar: McNemar's exact test.
    """

    names: tuple[str, str]
    a: Mapping[str, float]
    b: Mapping[str, float]
    differences: Mapping[str, Interval]
    mcnemar: McNemar


def compare(
    a: Predictions,
    b: Predictions,
    names: tuple[str, str] = ("A", "B"),
    resamples: int = RESAMPLES,
    seed: int = 0,
    bins: int = BINS,
    level: float = LEVEL,
) -> Comparison:
    """Compare two models on the same images. The order of the images can differ.

    Args:
        a: Predictions of the first model.
        b: Predictions of the second model on the same images.
        names: Names of the first and the second model.
        resamples: Number of bootstrap resamples; both models get the same resamples.
        seed: Seed of the resamples.
        bins: Number of bins of the calibration errors.
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If classes, images, labels or patients differ.

    Source: Efron 1979 (bootstrap of paired differences), McNemar 1947 with exact binomial probabilities.
    """
    if differing := differences_between(a, b):
        raise UserError(f"{names[0]} and {names[1]} cannot be compared: {'; '.join(differing)}")
    a, b = (part.select(np.argsort(np.array(part.images))) for part in (a, b))
    score_a, score_b = score(a, bins), score(b, bins)
    drawn_a, drawn_b = (bootstrap(part, resamples, seed, bins) for part in (a, b))
    differences = {}
    for name, value in score_a.values.items():
        interval = percentile_interval(score_b.values[name] - value, drawn_b[name] - drawn_a[name], level)
        reason = score_a.reasons.get(name) or score_b.reasons.get(name) or interval.reason
        differences[name] = replace(interval, method="paired bootstrap over patients, percentile", reason=reason)
    return Comparison(names, score_a.values, score_b.values, differences, mcnemar(a, b))


def mcnemar(a: Predictions, b: Predictions) -> McNemar:
    """McNemar's exact test for two sets of predictions of the same images in the same order."""
    correct_a, correct_b = a.predicted == a.labels, b.predicted == b.labels
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    note = ""
    if a.n_patients < len(a.labels):
        note = "The test assumes independent images, but some patients have several; use the interval of the accuracy."
    return McNemar(int((correct_a & correct_b).sum()), only_a, only_b, int((~correct_a & ~correct_b).sum()), p, note)


def unpaired_difference(first: Interval, second: Interval) -> Interval:
    """Second minus first, for a metric on two independent test sets, from the intervals of both.

    Each limit combines the distances from both values to their limits on that side. Unlike a bootstrap of the
    difference, it keeps the exact limits of proportions of 0 and 1.

    Args:
        first: The metric on the first test set.
        second: The same metric, at the same level, on the second test set.

    Source: Newcombe 1998 (method 10); for any pair of intervals Zou and Donner 2008 (MOVER).
    """
    method = "from the intervals of both test sets (MOVER)"
    value = second.value - first.value
    missing = [each.reason for each in (first, second) if np.isnan(each.value) or np.isnan(each.low)]
    if missing:
        return Interval(value, np.nan, np.nan, method, next(filter(None, missing), "a test set has no interval"))
    low = value - np.hypot(second.value - second.low, first.high - first.value)
    high = value + np.hypot(second.high - second.value, first.value - first.low)
    return Interval(value, float(low), float(high), method)


def differences_between(a: Predictions, b: Predictions) -> list[str]:
    """Descriptions of all differences between two test sets; empty if a paired comparison is possible."""
    if a.class_names != b.class_names:
        return [f"classes {', '.join(a.class_names)} against {', '.join(b.class_names)}"]
    found = []
    index_a, index_b = ({image: i for i, image in enumerate(part.images)} for part in (a, b))
    for here, there, which in ((index_a, index_b, "first"), (index_b, index_a, "second")):
        if unpaired := [image for image in here if image not in there]:
            found.append(f"{_images(unpaired)} only in the {which}")
    shared = [image for image in index_a if image in index_b]
    if changed := [i for i in shared if a.labels[index_a[i]] != b.labels[index_b[i]]]:
        found.append(f"{_images(changed)} with another label")
    if changed := [i for i in shared if a.patients[index_a[i]] != b.patients[index_b[i]]]:
        found.append(f"{_images(changed)} with another patient")
    return found


def _images(images: Sequence[str]) -> str:
    shown = ", ".join(images[:2]) + (", …" if len(images) > 2 else "")
    return f"{len(images)} image{'' if len(images) == 1 else 's'} ({shown})"
