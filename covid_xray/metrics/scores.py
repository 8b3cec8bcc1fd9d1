"""Metrics of one set of predictions, by name.

Names are flat: ``accuracy`` for an overall metric, ``sensitivity/<class>`` for a metric of one class. All functions of
the confusion matrix also accept a stack of matrices, so the bootstrap uses the same code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from covid_xray.metrics.calibration import BINS, brier, class_calibration_errors, ece, nll
from covid_xray.metrics.predictions import FloatArray, IntArray, Predictions
from covid_xray.metrics.ranking import Ranking

OVERALL = (
    "accuracy",
    "no_information_rate",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "mcc",
    "kappa",
    "macro_auroc",
    "macro_average_precision",
    "nll",
    "brier",
    "ece",
    "classwise_ece",
)
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "average_precision", "calibration_error")
LABELS = {
    "accuracy": "accuracy",
    "no_information_rate": "no-information rate",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "mcc": "Matthews correlation",
    "kappa": "Cohen's kappa",
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro average precision",
    "nll": "negative log-likelihood (lower is better)",
    "brier": "Brier score (lower is better)",
    "ece": "calibration error (lower is better)",
    "classwise_ece": "classwise calibration error (lower is better)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "calibration_error": "calibration error",
}
# Metrics that are others if a class has no images.
ALL_CLASSES = ("balanced_accuracy", "macro_f1", "mcc", "kappa", "macro_auroc", "macro_average_precision")
PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True, eq=False)
class Scores:
    """All metrics of one set of predictions.

    Attributes:
        confusion: Counts (c, c); rows are true classes, columns are predicted classes.
        values: Value by name; nan if it is undefined.
        reasons: Why the value is undefined, for each name whose value is nan.
    """

    confusion: IntArray
    values: Mapping[str, float]
    reasons: Mapping[str, str]


def score(predictions: Predictions, bins: int = BINS) -> Scores:
    """Compute all metrics.

    Macro averages include only classes that have test images, as in scikit-learn's balanced accuracy. If a class has
    no image, its own metrics are undefined, with a reason; the metrics of the other classes do not change.

    Args:
        predictions: Predictions of the model.
        bins: Number of bins of the calibration errors, at least 1.

    Source: Mann and Whitney 1947 (AUROC); Gorodkin 2004 (multi-class MCC), Cohen 1960 (kappa).
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    confusion = confusion_matrix(labels, predictions.predicted, len(predictions.class_names))
    by_class = class_scores(confusion) | class_areas(labels, probabilities)
    by_class["calibration_error"] = class_calibration_errors(labels, probabilities, bins)
    overall = overall_scores(confusion)
    overall["macro_auroc"] = nan_mean(by_class["auroc"])
    overall["macro_average_precision"] = nan_mean(by_class["average_precision"])
    overall["nll"] = np.array(nll(labels, probabilities))
    overall["brier"] = np.array(brier(labels, probabilities))
    overall["ece"] = np.array(ece(labels, probabilities, bins))
    overall["classwise_ece"] = by_class["calibration_error"].mean()
    values = {name: float(overall[name]) for name in OVERALL}
    for metric in PER_CLASS:
        values |= {f"{metric}/{name}": float(by_class[metric][k]) for k, name in enumerate(predictions.class_names)}
    return Scores(confusion, values, _reasons(values, confusion, predictions.class_names))


def confusion_matrix(labels: IntArray, predicted: IntArray, n_classes: int) -> IntArray:
    """Counts (c, c); rows are true classes, columns are predicted classes."""
    cells: IntArray = np.bincount(labels * n_classes + predicted, minlength=n_classes**2).astype(np.int64)
    return cells.reshape(n_classes, n_classes)


def class_scores(confusion: IntArray | FloatArray) -> dict[str, FloatArray]:
    """Sensitivity, specificity, PPV, NPV and F1 of each class against all others.

    Args:
        confusion: Counts (..., c, c); rows are true classes.

    Returns:
        Arrays (..., c); nan if the denominator is 0. Sensitivity and F1 are undefined for a class without images, PPV
        for a class that is never predicted, specificity if all images are of the class, and NPV if the class is always
        predicted.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted, total = counts.sum(axis=-1), counts.sum(axis=-2), counts.sum(axis=(-2, -1))[..., None]
    true_negatives = total - true - predicted + hits
    return {
        "sensitivity": _ratio(hits, true),
        "specificity": _ratio(true_negatives, total - true),
        "ppv": _ratio(hits, predicted),
        "npv": _ratio(true_negatives, total - predicted),
        "f1": np.where(true > 0, _ratio(2 * hits, true + predicted), np.nan),
    }


def overall_scores(confusion: IntArray | FloatArray) -> dict[str, FloatArray]:
    """Accuracy, no-information rate, balanced accuracy, macro and weighted F1, MCC and Cohen's kappa.

    Args:
        confusion: Counts (..., c, c); rows are true classes.

    Returns:
        Arrays (...). Accuracy, no-information rate (share of the largest class), balanced accuracy and F1 are in
        [0, 1], MCC and kappa in [-1, 1]. MCC is 0 if all labels or all predictions are one class, as in scikit-learn.
        Kappa is nan if all labels and all predictions are the same class.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted, total = counts.sum(axis=-1), counts.sum(axis=-2), counts.sum(axis=(-2, -1))
    by_class = class_scores(counts)
    correct, chance = hits.sum(axis=-1), (true * predicted).sum(axis=-1)
    spread = np.sqrt((total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1)))
    return {
        "accuracy": _ratio(correct, total),
        "no_information_rate": _ratio(true.max(axis=-1), total),
        "balanced_accuracy": nan_mean(by_class["sensitivity"]),
        "macro_f1": nan_mean(by_class["f1"]),
        "weighted_f1": _ratio(np.nansum(by_class["f1"] * true, axis=-1), total),
        "mcc": np.where(spread > 0, _ratio(correct * total - chance, spread), 0.0),
        "kappa": _ratio(correct * total - chance, total**2 - chance),
    }


def class_areas(labels: IntArray, probabilities: FloatArray) -> dict[str, FloatArray]:
    """Area under the ROC curve and average precision of each class against all others.

    Returns:
        Arrays (c,) in [0, 1]; nan for a class without images. The AUROC is also nan if all images are of the class.
    """
    n, c = probabilities.shape
    images, once = np.arange(n), np.ones((1, n))
    areas = [Ranking(labels == k, probabilities[:, k], images).areas(once) for k in range(c)]
    auroc, precision = (np.concatenate(values) for values in zip(*areas, strict=True))
    return {"auroc": auroc, "average_precision": precision}


def nan_mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis without nan values; nan if all values are nan. Unlike `np.nanmean`, it never warns."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient; nan if the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _reasons(values: Mapping[str, float], confusion: IntArray, class_names: tuple[str, ...]) -> dict[str, str]:
    true = dict(zip(class_names, confusion.sum(axis=1).tolist(), strict=True))
    reasons = {}
    for name in (name for name, value in values.items() if np.isnan(value)):
        metric, _, target = name.partition("/")
        if not target:
            reasons[name] = "all labels and predictions are one class"
        elif metric == "ppv":
            reasons[name] = f"no image is predicted as {target}"
        elif metric == "npv":
            reasons[name] = f"every image is predicted as {target}"
        else:
            reasons[name] = f"{'every' if true[target] else 'no'} test image is {target}"
    return reasons
