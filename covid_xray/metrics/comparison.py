"""Two models on the same images: paired differences, and nothing where the images are not the same."""

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
    """McNemar's exact test on which images each of two models gets right.

    Attributes:
        both: Images that both get right.
        only_a: Images that only the first gets right.
        only_b: Images that only the second gets right.
        neither: Images that neither gets right.
        p: Two-sided exact p-value; 1 where the models never disagree.
        note: Words on what the test assumes, where the images do not fulfil it.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    note: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """A first and a second model, and the second minus the first.

    Attributes:
        names: Names of the two.
        a: Value of every figure of merit of the first.
        b: The same of the second.
        differences: Second minus first with a paired bootstrap interval, by name.
        mcnemar: The exact test of equal accuracy.
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
    """Compare two models image by image; the order of the images does not matter.

    Args:
        a: Predictions of the first model.
        b: Predictions of the second model on the same images.
        names: What to call them.
        resamples: Resamples of patients; both models see the same ones.
        seed: Seed of the resamples.
        bins: Bins of the calibration errors.
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the two differ in classes, images, labels or patients, saying how.

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
    """McNemar's exact test for two sets of predictions whose images are the same and in the same order."""
    right_a, right_b = a.predicted == a.labels, b.predicted == b.labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    several = a.n_patients < len(a.labels)
    note = "Takes images as independent; patients have several here, so trust the interval above it." if several else ""
    return McNemar(int((right_a & right_b).sum()), only_a, only_b, int((~right_a & ~right_b).sum()), p, note)


def differences_between(a: Predictions, b: Predictions) -> list[str]:
    """How two test sets differ, in words; empty if a paired comparison is possible."""
    if a.class_names != b.class_names:
        return [f"classes {', '.join(a.class_names)} against {', '.join(b.class_names)}"]
    words = []
    index_a, index_b = ({image: i for i, image in enumerate(part.images)} for part in (a, b))
    for here, there, which in ((index_a, index_b, "first"), (index_b, index_a, "second")):
        if alone := [image for image in here if image not in there]:
            words.append(f"{_images(alone)} only in the {which}")
    shared = [image for image in index_a if image in index_b]
    if moved := [i for i in shared if a.labels[index_a[i]] != b.labels[index_b[i]]]:
        words.append(f"{_images(moved)} with another label")
    if moved := [i for i in shared if a.patients[index_a[i]] != b.patients[index_b[i]]]:
        words.append(f"{_images(moved)} with another patient")
    return words


def _images(images: Sequence[str]) -> str:
    shown = ", ".join(images[:2]) + (", …" if len(images) > 2 else "")
    return f"{len(images)} image{'' if len(images) == 1 else 's'} ({shown})"
