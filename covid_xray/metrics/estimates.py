"""All metrics of a test set with their intervals and warnings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from covid_xray.metrics.bootstrap import RESAMPLES, bootstrap
from covid_xray.metrics.calibration import BINS
from covid_xray.metrics.intervals import (
    LEVEL,
    Interval,
    clustered_exact_interval,
    few_cases_warning,
    mean_interval,
    percentile_interval,
    perfect_ranking_interval,
)
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import ALL_CLASSES, PROPORTIONS, Scores, score

# A resample of two patients of a class among many lacks the class with a probability of 13 %, of three with 5 %.
FEWEST_PATIENTS = 3
CENTRED = ("ece", "classwise_ece", "calibration_error")


@dataclass(frozen=True, eq=False)
class Estimates:
    """All metrics of a test set with their intervals.

    Attributes:
        scores: The point estimates and the confusion matrix.
        intervals: Interval of each metric, by the same names.
        cases: Number of test images by class.
        patients: Number of patients by class.
        warnings: Limits of these results, such as classes with few cases.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    scores: Scores
    intervals: Mapping[str, Interval]
    cases: Mapping[str, int]
    patients: Mapping[str, int]
    warnings: tuple[str, ...]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types for ``metrics.json``; nan becomes None."""
        return {
            "metrics": {name: interval_dict(interval) for name, interval in self.intervals.items()},
            "confusion": self.scores.confusion.tolist(),
            "cases": dict(self.cases),
            "patients": dict(self.patients),
            "warnings": list(self.warnings),
            "bootstrap": {"unit": "patient", "resamples": self.resamples, "seed": self.seed, "level": LEVEL},
        }


def estimate(
    predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0, bins: int = BINS, level: float = LEVEL
) -> Estimates:
    """Compute all metrics with their intervals.

    Accuracy, sensitivity, specificity, PPV and NPV get exact intervals for clustered images, because a bootstrap of 10
    hits out of 10 has zero width. For the same reason, so do an AUROC of 1, and a macro AUROC and a balanced accuracy
    of 1. All other metrics get bootstrap intervals over patients; those that need a class with fewer than
    `FEWEST_PATIENTS` patients get none.

    Args:
        predictions: Predictions of the model.
        resamples: Number of bootstrap resamples, at least 1.
        seed: Seed of the bootstrap.
        bins: Number of bins of the calibration errors.
        level: Confidence level, between 0 and 1.
    """
    scores = score(predictions, bins)
    resampled = bootstrap(predictions, resamples, seed, bins)
    cases, patients = _count(predictions)
    few = {name: n for name, n in patients.items() if 0 < n < FEWEST_PATIENTS}
    intervals = {}
    exact = proportion_intervals(predictions, level) | _perfect_intervals(predictions, scores.values, level)
    for name, value in scores.values.items():
        metric, _, class_name = name.partition("/")
        found = exact.get(name) or percentile_interval(value, resampled[name], level, metric in CENTRED)
        rare = few.keys() & {class_name} or (few if metric in ALL_CLASSES else ())
        if rare and name not in exact:
            texts = (f"{n} patient{'s' * (n != 1)} of {name}" for name, n in few.items() if name in rare)
            found = replace(found, low=np.nan, high=np.nan, reason=f"only {' and '.join(texts)}")
        intervals[name] = replace(found, reason=scores.reasons.get(name, found.reason))
    warnings = tuple(_warnings(predictions, cases, patients))
    return Estimates(scores, intervals, cases, patients, warnings, resamples, seed)


def proportion_intervals(predictions: Predictions, level: float = LEVEL) -> dict[str, Interval]:
    """Exact intervals of the accuracy and of each class's proportions, by name, with images clustered by patient."""
    labels, predicted, patient_index = predictions.labels, predictions.predicted, predictions.patient_index
    found = {"accuracy": clustered_exact_interval(labels == predicted, patient_index, level)}
    for k, name in enumerate(predictions.class_names):
        is_target, is_predicted = labels == k, predicted == k
        # Denominator and hits of each proportion, in the order of PROPORTIONS.
        parts = (
            (is_target, is_predicted),
            (~is_target, ~is_predicted),
            (is_predicted, is_target),
            (~is_predicted, ~is_target),
        )
        for metric, (selected, hits) in zip(PROPORTIONS, parts, strict=True):
            found[f"{metric}/{name}"] = clustered_exact_interval(hits[selected], patient_index[selected], level)
    return found


def _perfect_intervals(predictions: Predictions, values: Mapping[str, float], level: float) -> dict[str, Interval]:
    """Intervals of the AUROCs and of their mean and the balanced accuracy where these are 1, by name."""
    each = 1 - (1 - level) / len(predictions.class_names)
    found, wide = {}, []
    for k, name in enumerate(predictions.class_names):
        if values[f"auroc/{name}"] == 1:
            is_target = predictions.labels == k
            found[f"auroc/{name}"] = perfect_ranking_interval(is_target, predictions.patient_index, level)
            wide.append(perfect_ranking_interval(is_target, predictions.patient_index, each))
    if values["macro_auroc"] == 1:
        found["macro_auroc"] = mean_interval(wide, 1.0)
    if values["balanced_accuracy"] == 1:
        sensitivities = proportion_intervals(predictions, each)
        names = [f"sensitivity/{name}" for name in predictions.class_names]
        found["balanced_accuracy"] = mean_interval([sensitivities[name] for name in names], 1.0)
    return found


def interval_dict(interval: Interval) -> dict[str, Any]:
    """Convert an interval to plain types; nan becomes None, and an empty reason is omitted."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    plain: dict[str, Any] = {key: None if np.isnan(number) else float(number) for key, number in numbers.items()}
    plain["method"] = interval.method
    return plain | ({"reason": interval.reason} if interval.reason else {})


def fold_table(parts: Mapping[str, Predictions], bins: int = BINS) -> dict[str, dict[str, float]]:
    """All metrics of each fold of a cross-validation, with mean and standard deviation over the folds.

    Args:
        parts: Test predictions by name of the fold.
        bins: Number of bins of the calibration errors.

    Returns:
        For each metric: the value of each fold, ``mean``, and ``sd`` (n - 1), over the folds where the metric is
        defined. The SD of fewer than two folds is nan. Folds share training images, so the SD describes the spread but
        is not a standard error.
    """
    values = {name: score(part, bins).values for name, part in parts.items()}
    table = {}
    for metric in next(iter(values.values()), {}):
        row = {name: scores.get(metric, np.nan) for name, scores in values.items()}
        defined = [value for value in row.values() if not np.isnan(value)]
        row["mean"] = float(np.mean(defined)) if defined else np.nan
        row["sd"] = float(np.std(defined, ddof=1)) if len(defined) > 1 else np.nan
        table[metric] = row
    return table


def _count(predictions: Predictions) -> tuple[dict[str, int], dict[str, int]]:
    patient_index = predictions.patient_index
    cases, patients = {}, {}
    for k, name in enumerate(predictions.class_names):
        is_target = predictions.labels == k
        cases[name], patients[name] = int(is_target.sum()), len(np.unique(patient_index[is_target]))
    return cases, patients


def _warnings(predictions: Predictions, cases: Mapping[str, int], patients: Mapping[str, int]) -> list[str]:
    warnings = [few_cases_warning(name, cases[name], patients[name]) for name in predictions.class_names]
    if predictions.n_patients == 1:
        warnings.append("All test images are of one patient, so the intervals are not meaningful.")
    return [warning for warning in warnings if warning]
