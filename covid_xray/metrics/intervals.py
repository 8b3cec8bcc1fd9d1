"""Confidence intervals of proportions: exact, Wilson, and exact with several images per patient."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from covid_xray.errors import UserError

LEVEL = 0.95
FEW_CASES = 30


@dataclass(frozen=True)
class Interval:
    """A value with its confidence limits; all nan where ``reason`` says why there is none.

    Attributes:
        value: The point estimate.
        low: Lower limit.
        high: Upper limit.
        method: How the limits were found, in words.
        reason: Why the value or the limits are not defined; empty if they are.
    """

    value: float
    low: float
    high: float
    method: str = ""
    reason: str = ""

    def text(self, percent: bool = False, digits: int | None = None) -> str:
        """The value with its limits, for people: ``0.91 (0.88 to 0.93)`` or ``91.0 % (88.0 to 93.0 %)``."""
        if np.isnan(self.value):
            return f"not defined: {self.reason}" if self.reason else "not defined"
        factor, unit = (100.0, " %") if percent else (1.0, "")
        places = digits if digits is not None else (1 if percent else 3)
        number = f"{factor * self.value:.{places}f}{unit}"
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{number} (no interval: {self.reason})" if self.reason else number
        return f"{number} ({factor * self.low:.{places}f} to {factor * self.high:.{places}f}{unit})"


def exact_interval(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Clopper-Pearson interval of a proportion.

    Args:
        successes: Number of successes, from 0 to ``trials``; need not be whole (effective sample sizes are not).
        trials: Number of independent trials; with 0 the interval is nan.
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the numbers are out of range.

    Source: Clopper and Pearson 1934, by quantiles of the beta distribution.
    """
    _check(successes, trials, level)
    method = "exact (Clopper-Pearson)"
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan, method, "no cases")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(successes / trials, low, high, method)


def wilson_interval(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Wilson score interval of a proportion, without continuity correction; arguments as for `exact_interval`.

    Raises:
        UserError: If the numbers are out of range.

    Source: Wilson 1927.
    """
    _check(successes, trials, level)
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan, "Wilson", "no cases")
    z = float(stats.norm.ppf(0.5 + level / 2))
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # At 0 and 1 the limits are the share itself, but for rounding.
    low, high = np.clip([centre - half, centre + half], [0.0, share], [share, 1.0])
    return Interval(share, float(low), float(high), "Wilson")


def clustered_exact_interval(hits: npt.ArrayLike, patients: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Exact interval of a proportion of images when patients have several images each.

    Images of one patient resemble each other, so they count as fewer than they are: the interval is Clopper-Pearson's
    with n / D images, where D is the variance of the proportion between patients over that of independent images, at
    least 1, widened by Student's t for few patients. Where all images agree, D cannot be estimated, and each patient
    counts as if its images were one. With one image per patient it is exactly `exact_interval`.

    Args:
        hits: Whether each image is a success (n,).
        patients: Patient of each image (n,).
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the lengths differ or the level is out of range.

    Source: Korn and Graubard 1998, with the linearised variance of a ratio.
    """
    values = np.asarray(hits, dtype=np.float64)
    owner = np.asarray(patients)
    if values.ndim != 1 or values.shape != owner.shape:
        raise UserError(f"hits and patients must be rows of one length, not {values.shape} and {owner.shape}")
    n = len(values)
    index = np.unique(owner, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(index)
    if n == 0 or len(sizes) == n:
        return exact_interval(float(values.sum()), n, level)
    share = float(values.mean())
    method = "exact (Clopper-Pearson), effective number of images given the patients"
    people = len(sizes)
    # Kish: what is left if all images of a patient agree; nothing can be worse.
    effective = n**2 / float((sizes**2).sum())
    gaps = np.bincount(index, weights=values) - share * sizes
    if people > 1 and 0 < share < 1:
        between = people / (people - 1) * float((gaps**2).sum()) / n**2
        inflation = max(1.0, between / (share * (1 - share) / n))
        tail = (1 + level) / 2
        few = (float(stats.t.ppf(tail, n - 1)) / float(stats.t.ppf(tail, people - 1))) ** 2
        effective = max(effective, few * n / inflation)
    inner = exact_interval(share * effective, effective, level)
    return Interval(share, inner.low, inner.high, method)


def percentile_interval(
    value: float, resampled: npt.ArrayLike, level: float = LEVEL, centred: bool = False
) -> Interval:
    """Percentile bootstrap interval.

    Args:
        value: The point estimate.
        resampled: Its value in every resample; nan where it is not defined.
        level: Confidence level, between 0 and 1.
        centred: Move the resamples' mean onto the value, and limits below 0 to 0. For calibration errors: a
            resample has ties that the sample has not, which makes them larger, so that plain limits may miss the value.

    Returns:
        The interval; without limits, and saying so, where less than nine tenths of the resamples define the value.

    Source: Efron 1979.
    """
    values = np.asarray(resampled, dtype=np.float64)
    method = "bootstrap over patients, percentile" + (", centred" if centred else "")
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, method)
    defined = values[~np.isnan(values)]
    if len(defined) < 0.9 * len(values) or len(defined) == 0:
        reason = f"defined in {len(defined)} of {len(values)} resamples only"
        return Interval(value, np.nan, np.nan, method, reason)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    if centred:
        low, high = np.maximum(0.0, np.array([low, high]) + value - defined.mean())
    return Interval(value, float(low), float(high), method)


def fisher_exact_p(successes_a: int, trials_a: int, successes_b: int, trials_b: int) -> float:
    """Two-sided p-value of Fisher's exact test that two independent proportions are equal.

    Raises:
        UserError: If the numbers are out of range.
    """
    _check(successes_a, trials_a, LEVEL)
    _check(successes_b, trials_b, LEVEL)
    table = [[successes_a, trials_a - successes_a], [successes_b, trials_b - successes_b]]
    return float(stats.fisher_exact(table).pvalue)


def few_cases_warning(name: str, cases: int, patients: int | None = None, few: int = FEW_CASES) -> str:
    """Words to stand beside a class with fewer than ``few`` cases; empty for the others.

    Cases are patients where they are known: 40 images of 5 patients are few.
    """
    count, unit = (cases, "image") if patients is None or patients >= cases else (patients, "patient")
    if count >= few:
        return ""
    if cases == 0:
        return f"{name}: no test case at all; nothing can be said about this class."
    best = exact_interval(count, count)
    plural = "" if count == 1 else "s"
    of = f" ({cases} images)" if unit == "patient" else ""
    return (
        f"{name}: only {count} {unit}{plural}{of}, fewer than {few}: even a perfect score would mean no more than "
        f"{100 * best.low:.0f} to 100 %. Do not draw conclusions from this class."
    )


def _check(successes: float, trials: float, level: float) -> None:
    if not 0 <= successes <= trials:
        raise UserError(f"successes must lie from 0 to the number of trials ({trials}), not {successes}")
    if not 0 < level < 1:
        raise UserError(f"the confidence level must lie between 0 and 1, not {level}")
