"""Figures of merit of one set of predictions, every one by name.

Names are flat: ``accuracy``, and ``sensitivity/<class>`` for what belongs to a class. Everything that follows from the
confusion matrix works on a stack of matrices too, so that the bootstrap computes the very same quantities.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from covid_xray.metrics.calibration import BINS, brier, class_calibration_errors, ece, nll
from covid_xray.metrics.predictions import FloatArray, IntArray, Predictions

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
PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True, eq=False)
class Scores:
    """All figures of merit of one set of predictions.

    Attributes:
        confusion: Counts (c, c); rows are the true, columns the predicted classes.
        values: Value by name; nan where it is not defined.
        reasons: Why, for every name whose value is nan.
    """

    confusion: IntArray
    values: Mapping[str, float]
    reasons: Mapping[str, str]


def score(predictions: Predictions, bins: int = BINS) -> Scores:
    """Compute every figure of merit.

    Macro averages are taken over the classes that have test images, as scikit-learn's balanced accuracy does; a class
    without images makes its own figures undefined, with the reason, and leaves the others as they are.

    Args:
        predictions: What the model said.
        bins: Bins of the calibration errors, at least 1.

    Source: scikit-learn for ROC and precision-recall areas; Gorodkin 2004 (multi-class MCC), Cohen 1960 (kappa).
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    confusion = confusion_matrix(labels, predictions.predicted, len(predictions.class_names))
    by_class = class_scores(confusion) | class_areas(labels, probabilities)
    by_class["calibration_error"] = class_calibration_errors(labels, probabilities, bins)
    overall = overall_scores(confusion)
    overall["macro_auroc"] = _mean(by_class["auroc"])
    overall["macro_average_precision"] = _mean(by_class["average_precision"])
    overall["nll"] = np.array(nll(labels, probabilities))
    overall["brier"] = np.array(brier(labels, probabilities))
    overall["ece"] = np.array(ece(labels, probabilities, bins))
    overall["classwise_ece"] = by_class["calibration_error"].mean()
    values = {name: float(overall[name]) for name in OVERALL}
    for metric in PER_CLASS:
        values |= {f"{metric}/{name}": float(by_class[metric][k]) for k, name in enumerate(predictions.class_names)}
    return Scores(confusion, values, _reasons(values, confusion, predictions.class_names))


def confusion_matrix(labels: IntArray, predicted: IntArray, n_classes: int) -> IntArray:
    """Counts (c, c): row is the true, column the predicted class."""
    cells: IntArray = np.bincount(labels * n_classes + predicted, minlength=n_classes**2).astype(np.int64)
    return cells.reshape(n_classes, n_classes)


def class_scores(confusion: IntArray | FloatArray) -> dict[str, FloatArray]:
    """Sensitivity, specificity, PPV, NPV and F1 of every class against all others.

    Args:
        confusion: Counts (..., c, c), rows true.

    Returns:
        Arrays (..., c); nan where a denominator is 0, that is where a class has no image (sensitivity, F1), is never
        predicted (PPV), is the only one (specificity) or is always predicted (NPV).
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said, total = counts.sum(axis=-1), counts.sum(axis=-2), counts.sum(axis=(-2, -1))[..., None]
    rejected = total - true - said + hits
    return {
        "sensitivity": _ratio(hits, true),
        "specificity": _ratio(rejected, total - true),
        "ppv": _ratio(hits, said),
        "npv": _ratio(rejected, total - said),
        "f1": np.where(true > 0, _ratio(2 * hits, true + said), np.nan),
    }


def overall_scores(confusion: IntArray | FloatArray) -> dict[str, FloatArray]:
    """Accuracy, no-information rate, balanced accuracy, macro and weighted F1, MCC and Cohen's kappa.

    Args:
        confusion: Counts (..., c, c), rows true.

    Returns:
        Arrays (...). Accuracy, no-information rate (share of the largest class), balanced accuracy and F1 lie in
        [0, 1], MCC and kappa in [-1, 1]. MCC is 0 where all labels or all predictions are one class, as in
        scikit-learn; kappa is nan where both are the same one class.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said, total = counts.sum(axis=-1), counts.sum(axis=-2), counts.sum(axis=(-2, -1))
    by_class = class_scores(counts)
    right, chance = hits.sum(axis=-1), (true * said).sum(axis=-1)
    spread = np.sqrt((total**2 - (said**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1)))
    return {
        "accuracy": _ratio(right, total),
        "no_information_rate": _ratio(true.max(axis=-1), total),
        "balanced_accuracy": _mean(by_class["sensitivity"]),
        "macro_f1": _mean(by_class["f1"]),
        "weighted_f1": _ratio(np.nansum(by_class["f1"] * true, axis=-1), total),
        "mcc": np.where(spread > 0, _ratio(right * total - chance, spread), 0.0),
        "kappa": _ratio(right * total - chance, total**2 - chance),
    }


def class_areas(labels: IntArray, probabilities: FloatArray) -> dict[str, FloatArray]:
    """Area under the ROC curve and average precision of every class against all others (c,).

    Returns:
        Arrays (c,) in [0, 1]; nan for a class without images, the AUROC also for a class without other images.
    """
    n, c = probabilities.shape
    auroc, precision = np.full(c, np.nan), np.full(c, np.nan)
    for k in range(c):
        own = labels == k
        if own.any():
            precision[k] = average_precision_score(own, probabilities[:, k])
            if own.sum() < n:
                auroc[k] = roc_auc_score(own, probabilities[:, k])
    return {"auroc": auroc, "average_precision": precision}


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """Quotient that is nan where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is defined; nan where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def _reasons(values: Mapping[str, float], confusion: IntArray, class_names: tuple[str, ...]) -> dict[str, str]:
    true = dict(zip(class_names, confusion.sum(axis=1).tolist(), strict=True))
    total = int(confusion.sum())
    reasons = {}
    for name in (name for name, value in values.items() if np.isnan(value)):
        metric, _, own = name.partition("/")
        if not own:
            reasons[name] = "all labels and predictions are one class"
        elif true[own] == 0 and metric not in ("ppv", "npv"):
            reasons[name] = f"no test image is {own}"
        elif true[own] == total and metric != "npv":
            reasons[name] = f"every test image is {own}"
        else:
            reasons[name] = f"no image is predicted as {own if metric == 'ppv' else f'anything but {own}'}"
    return reasons
