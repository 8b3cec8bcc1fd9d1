"""Operating points: thresholds chosen on validation images, applied to test images as they are."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import roc_curve

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import LEVEL, Interval, clustered_exact_interval
from covid_xray.metrics.predictions import Predictions

Rule = Literal["youden", "sensitivity"]
TARGET = 0.95


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold of one class's probability, and what it did on the images that it was chosen on.

    Attributes:
        class_name: The class; at or above the threshold an image counts as this class.
        rule: How it was chosen, in words.
        threshold: The threshold, in [0, 1].
        sensitivity: Validation sensitivity.
        specificity: Validation specificity.
    """

    class_name: str
    rule: str
    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class OperatingResult:
    """An operating point on test images.

    Attributes:
        point: The operating point.
        sensitivity: With its exact interval, images clustered by patient.
        specificity: The same.
        prevalence: Share of the class in the population that PPV and NPV are for; nan where none was given.
        ppv: Positive predictive value at that prevalence; its limits cover at least the stated level.
        npv: Negative predictive value at that prevalence.
    """

    point: OperatingPoint
    sensitivity: Interval
    specificity: Interval
    prevalence: float
    ppv: Interval
    npv: Interval


def choose_operating_point(
    validation: Predictions, class_name: str, rule: Rule = "youden", target: float = TARGET
) -> OperatingPoint:
    """Choose a class's threshold on validation images.

    Args:
        validation: Predictions of validation images, calibrated as the test images will be.
        class_name: The class to be told from all others.
        rule: ``youden`` (largest sensitivity + specificity - 1; the highest threshold of equals) or ``sensitivity``
            (the highest threshold whose sensitivity is at least ``target``).
        target: Least sensitivity, above 0 and at most 1.

    Raises:
        UserError: If the class is unknown or has no or only validation images, or the rule or target is no good.

    Source: Youden 1950.
    """
    scores, own = _scores(validation, class_name)
    if not own.any() or own.all():
        which = "no validation image is" if not own.any() else "every validation image is"
        raise UserError(f"no threshold for {class_name}: {which} {class_name}")
    false_rate, hit_rate, thresholds = roc_curve(own, scores, drop_intermediate=False)
    if rule == "youden":
        best, words = int(np.argmax(hit_rate - false_rate)), "largest Youden index on validation"
    elif rule == "sensitivity":
        if not 0 < target <= 1:
            raise UserError(f"the least sensitivity must lie above 0 and at most 1, not {target}")
        # A hair of tolerance: 19 of 20 is 0.95 on paper but may be less in binary.
        best = int(np.argmax(hit_rate >= target - 1e-12))
        words = f"validation sensitivity at least {100 * target:g} %"
    else:
        raise UserError(f"threshold rule {rule!r} is unknown; use youden or sensitivity")
    # A model worse than chance gets scikit-learn's infinite threshold: nobody is called. 1 is as good, and JSON.
    threshold = float(min(thresholds[best], 1.0))
    called = scores >= threshold
    return OperatingPoint(class_name, words, threshold, float(called[own].mean()), float((~called[~own]).mean()))


def apply_operating_point(
    point: OperatingPoint, test: Predictions, prevalence: float | None = None, level: float = LEVEL
) -> OperatingResult:
    """Apply a threshold to test images; nothing is chosen here.

    PPV and NPV follow from sensitivity and specificity by Bayes' rule at the given prevalence, because a test set's
    own mixture is hardly ever that of a ward. Both rise with either, so their limits come from both lower and both
    upper limits, each at a level such that the joint coverage is at least ``level`` (Bonferroni).

    Args:
        point: From `choose_operating_point`.
        test: Predictions of test images.
        prevalence: Share of the class in the target population, above 0 and below 1; without it PPV and NPV are nan.
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the class is unknown or the prevalence is out of range.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(f"the prevalence must lie between 0 and 1, not {prevalence}")
    scores, own = _scores(test, point.class_name)
    called, owner = scores >= point.threshold, test.patient_index

    def both(confidence: float) -> tuple[Interval, Interval]:
        return (
            clustered_exact_interval(called[own], owner[own], confidence),
            clustered_exact_interval(~called[~own], owner[~own], confidence),
        )

    sensitivity, specificity = both(level)
    if prevalence is None:
        missing = Interval(np.nan, np.nan, np.nan, "", "no prevalence was given")
        return OperatingResult(point, sensitivity, specificity, np.nan, missing, missing)
    wide = both(1 - (1 - level) / 2)
    corners = [
        predictive_values(*pair, prevalence)
        for pair in ((sensitivity.value, specificity.value), (wide[0].low, wide[1].low), (wide[0].high, wide[1].high))
    ]
    method = "Bayes' rule, conservative limits"
    ppv, npv = (
        Interval(value, low, high, method, "" if np.isfinite(value) else "no test case on one side, or nobody called")
        for value, low, high in zip(*corners, strict=True)
    )
    return OperatingResult(point, sensitivity, specificity, prevalence, ppv, npv)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """PPV and NPV by Bayes' rule; nan where nobody is called positive or nobody negative. All in [0, 1]."""
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    positive, negative = true_positive + false_positive, true_negative + false_negative
    return (
        true_positive / positive if positive > 0 else np.nan,
        true_negative / negative if negative > 0 else np.nan,
    )


def _scores(predictions: Predictions, class_name: str) -> tuple[np.ndarray, np.ndarray]:
    if class_name not in predictions.class_names:
        raise UserError(
            f"{class_name!r} is no class of these predictions; use one of {', '.join(predictions.class_names)}"
        )
    k = predictions.class_names.index(class_name)
    return predictions.probabilities[:, k], predictions.labels == k
