"""Confidence intervals: exact, Wilson, exact for several images per patient or a perfect ranking, and bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats gives the same numbers, but takes long to import

from covid_xray.errors import UserError

LEVEL = 0.95
FEW_CASES = 30


@dataclass(frozen=True)
class Interval:
    """A value with its confidence limits. Undefined numbers are nan.

    Attributes:
        value: The point estimate.
        low: Lower limit.
        high: Upper limit.
        method: Name of the method that computes the limits.
        reason: Why the value or the limits are undefined; empty if they are defined.
    """

    value: float
    low: float
    high: float
    method: str = ""
    reason: str = ""

    def text(self, percent: bool = False, digits: int | None = None) -> str:
        """Format the value with its limits: ``0.91 (0.88 to 0.93)`` or ``91.0 % (88.0 to 93.0 %)``."""
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
        successes: Number of successes, from 0 to ``trials``. It can be fractional, as effective sample sizes are.
        trials: Number of independent trials. If it is 0, the interval is nan.
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the numbers are out of range.

    Source: Clopper and Pearson 1934, computed from quantiles of the beta distribution.
    """
    _check(successes, trials, level)
    method = "exact (Clopper-Pearson)"
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan, method, "no cases")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(special.betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(special.betaincinv(successes + 1, trials - successes, 1 - tail))
    return Interval(successes / trials, low, high, method)


def wilson_interval(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Wilson score interval of a proportion, without continuity correction. Arguments: see `exact_interval`.

    Raises:
        UserError: If the numbers are out of range.

    Source: Wilson 1927.
    """
    _check(successes, trials, level)
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan, "Wilson", "no cases")
    z = float(special.ndtri(0.5 + level / 2))
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # At shares of 0 and 1 one limit equals the share; the clip removes the rounding error.
    low, high = np.clip([centre - half, centre + half], [0.0, share], [share, 1.0])
    return Interval(share, float(low), float(high), "Wilson")


def clustered_exact_interval(hits: npt.ArrayLike, patients: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Exact interval of a proportion of images if patients have several images each.

    Images of one patient are correlated, so the effective number of images is smaller than n. The interval is the
    Clopper-Pearson interval for n / D images. D is the variance of the proportion between patients, divided by the
    variance for independent images; it is at least 1. Student's t widens the interval if there are few patients. If
    all images agree, D cannot be estimated, and all images of one patient count as one image. With one image per
    patient, the result equals `exact_interval`.

    Args:
        hits: Whether each image is a success (n,).
        patients: Patient of each image (n,).
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the lengths differ or the level is out of range.

    Source: Korn and Graubard 1998, with the linearised variance of a ratio.
    """
    values = np.asarray(hits, dtype=np.float64)
    patient_ids = np.asarray(patients)
    if values.ndim != 1 or values.shape != patient_ids.shape:
        raise UserError(
            f"hits and patients must be 1-D and of equal length, not {values.shape} and {patient_ids.shape}"
        )
    n = len(values)
    patient_index = np.unique(patient_ids, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(patient_index)
    if n == 0 or len(sizes) == n:
        return exact_interval(float(values.sum()), n, level)
    share = float(values.mean())
    method = "exact (Clopper-Pearson), effective number of images given the patients"
    n_patients = len(sizes)
    # Kish's effective sample size if all images of a patient agree: the lower bound.
    effective = n**2 / float((sizes**2).sum())
    gaps = np.bincount(patient_index, weights=values) - share * sizes
    if n_patients > 1 and 0 < share < 1:
        between = n_patients / (n_patients - 1) * float((gaps**2).sum()) / n**2
        inflation = max(1.0, between / (share * (1 - share) / n))
        tail = (1 + level) / 2
        few = (float(special.stdtrit(n - 1, tail)) / float(special.stdtrit(n_patients - 1, tail))) ** 2
        effective = max(effective, few * n / inflation)
    inner = exact_interval(share * effective, effective, level)
    return Interval(share, inner.low, inner.high, method)


def perfect_ranking_interval(is_target: npt.ArrayLike, patients: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Interval of an AUROC of 1, which has zero width in a bootstrap and in DeLong's method.

    Pair each patient of the class with another patient without it, each patient once. The pairs are independent, and
    each is in the right order with a probability equal to the AUROC. A perfect ranking has all k pairs in the right
    order, so its probability is at most AUROC ** k, and the Clopper-Pearson interval of k successes in k trials
    covers the AUROC. No distribution of the scores is assumed. The interval is exact if some images of the class score
    as low as the lowest others, for example those of a source that the model does not know; else it is conservative.

    Args:
        is_target: Whether each image is of the class (n,).
        patients: Patient of each image (n,).
        level: Confidence level, between 0 and 1.

    Source: Clopper and Pearson 1934, for the pairs of Birnbaum and McCarty 1958 (distribution-free bound of
    P(Y < X)), taken disjoint.
    """
    chosen, patient_ids = np.asarray(is_target, dtype=bool), np.asarray(patients)
    of_class, others = set(patient_ids[chosen].tolist()), set(patient_ids[~chosen].tolist())
    pairs = min(len(of_class), len(others), len(of_class | others) // 2)
    found = exact_interval(pairs, pairs, level)
    return Interval(1.0, found.low, 1.0, "exact (Clopper-Pearson) for disjoint pairs of patients", found.reason)


def mean_interval(intervals: Sequence[Interval], value: float) -> Interval:
    """Interval of the mean of metrics from their intervals, each at a level of 1 - (1 - level) / n (Bonferroni).

    Args:
        intervals: Intervals of the n metrics; undefined metrics are left out of the mean and of the interval.
        value: The mean.
    """
    defined = [interval for interval in intervals if not np.isnan(interval.value)]
    low, high = (float(np.mean([getattr(interval, end) for interval in defined])) for end in ("low", "high"))
    return Interval(value, low, high, "mean of exact limits (Bonferroni)")


def percentile_interval(
    value: float, resampled: npt.ArrayLike, level: float = LEVEL, centred: bool = False
) -> Interval:
    """Percentile bootstrap interval.

    Args:
        value: The point estimate.
        resampled: Value in each resample; nan if it is undefined.
        level: Confidence level, between 0 and 1.
        centred: Shift the limits so that the mean of the resamples equals the value, and clip them at 0. Use it for
            calibration errors: duplicates in a resample increase them, so limits without the shift can exclude the
            value.

    Returns:
        The interval. The limits are nan, with a reason, if fewer than 9 of 10 resamples define the value, or if all
        have the same value, which does not say how uncertain it is.

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
    if np.ptp(defined) <= 1e-12 * np.abs(defined).max():
        return Interval(value, np.nan, np.nan, method, "equal in all resamples, so they do not show its uncertainty")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    if centred:
        low, high = np.maximum(0.0, np.array([low, high]) + value - defined.mean())
    return Interval(value, float(low), float(high), method)


def few_cases_warning(name: str, cases: int, patients: int | None = None) -> str:
    """Warning for a class with fewer than `FEW_CASES` cases; empty for other classes.

    If the number of patients is known and smaller than the number of images, each patient is one case.
    """
    count, unit = (cases, "image") if patients is None or patients >= cases else (patients, "patient")
    if count >= FEW_CASES:
        return ""
    if cases == 0:
        return f"{name}: no test case at all; this class cannot be evaluated."
    perfect = exact_interval(count, count)
    plural = "" if count == 1 else "s"
    of = f" ({cases} images)" if unit == "patient" else ""
    return (
        f"{name}: only {count} {unit}{plural}{of}, fewer than {FEW_CASES}: even a perfect score has an interval of "
        f"{100 * perfect.low:.0f} to 100 %. Do not draw conclusions from this class."
    )


def _check(successes: float, trials: float, level: float) -> None:
    if not 0 <= successes <= trials:
        raise UserError(f"successes must be between 0 and the number of trials ({trials}), not {successes}")
    if not 0 < level < 1:
        raise UserError(f"the confidence level must be between 0 and 1, not {level}")
