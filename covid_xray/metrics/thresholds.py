"""Operating points: thresholds that are chosen on validation images and applied unchanged to test images."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import LEVEL, Interval, clustered_exact_interval
from covid_xray.metrics.predictions import Predictions

Rule = Literal["youden", "sensitivity"]
TARGET = 0.95


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for the probability of one class, and its results on the validation images.

    Attributes:
        class_name: The class. An image is positive if the probability of this class is at least the threshold.
        rule: Description of the rule that chose the threshold.
        threshold: The threshold, in [0, 1].
        sensitivity: Sensitivity on the validation images.
        specificity: Specificity on the validation images.
    """

    class_name: str
    rule: str
    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class OperatingResult:
    """Results of an operating point on test images.

    Attributes:
        point: The operating point.
        sensitivity: Sensitivity with its exact interval; images are clustered by patient.
        specificity: Specificity with its exact interval; images are clustered by patient.
        prevalence: Share of the class in the target population.
        of_test_images: Whether it is the share of the class in the test images, because none was given.
        ppv: Positive predictive value at this prevalence; the coverage of its limits is at least the confidence level.
        npv: Negative predictive value at this prevalence, with limits of the same kind.
    """

    point: OperatingPoint
    sensitivity: Interval
    specificity: Interval
    prevalence: float
    of_test_images: bool
    ppv: Interval
    npv: Interval


def choose_operating_point(
    validation: Predictions, class_name: str, rule: Rule = "youden", target: float = TARGET
) -> OperatingPoint:
    """Choose the threshold of a class on validation images.

    Args:
        validation: Predictions of the validation images, calibrated in the same way as the test images.
        class_name: The positive class; all other classes are negative.
        rule: ``youden`` maximises sensitivity + specificity - 1. ``sensitivity`` takes the highest threshold with a
            sensitivity of at least ``target``. If several thresholds are equally good, the highest is used.
        target: Minimum sensitivity, above 0 and at most 1.

    Raises:
        UserError: If the class is unknown, if no validation image or every validation image is of the class, or if the
            rule or the target is invalid.

    Source: Youden 1950.
    """
    from sklearn.metrics import roc_curve  # here, because it takes long to import and predictions need none

    scores, is_target = _scores(validation, class_name)
    if not is_target.any() or is_target.all():
        which = "every" if is_target.any() else "no"
        raise UserError(f"no threshold for {class_name}: {which} validation image is {class_name}")
    false_positive_rate, true_positive_rate, thresholds = roc_curve(is_target, scores, drop_intermediate=False)
    if rule == "youden":
        best = int(np.argmax(true_positive_rate - false_positive_rate))
        description = "largest Youden index on validation"
    elif rule == "sensitivity":
        if not 0 < target <= 1:
            raise UserError(f"the minimum sensitivity must be above 0 and at most 1, not {target}")
        # The tolerance covers rounding: 19 / 20 must reach a target of 0.95.
        best = int(np.argmax(true_positive_rate >= target - 1e-12))
        description = f"validation sensitivity at least {100 * target:g} %"
    else:
        raise UserError(f"threshold rule {rule!r} is unknown; use youden or sensitivity")
    # A model worse than chance gets roc_curve's infinite threshold, which JSON cannot store; 1 replaces it.
    threshold = float(min(thresholds[best], 1.0))
    positive = scores >= threshold
    sensitivity, specificity = float(positive[is_target].mean()), float((~positive[~is_target]).mean())
    return OperatingPoint(class_name, description, threshold, sensitivity, specificity)


def apply_operating_point(
    point: OperatingPoint, test: Predictions, prevalence: float | None = None, level: float = LEVEL
) -> OperatingResult:
    """Apply an operating point to test images.

    PPV and NPV are computed from sensitivity and specificity by Bayes' rule at the given prevalence, because the class
    proportions of a test set rarely equal those of a clinical population. PPV and NPV increase with sensitivity and
    with specificity. Their lower limits are therefore computed from both lower limits, and their upper limits from both
    upper limits. These limits have a higher level, so that the joint coverage is at least ``level`` (Bonferroni).

    Args:
        point: Result of `choose_operating_point`.
        test: Predictions of the test images.
        prevalence: Share of the class in the target population, above 0 and below 1; None: the share of the class in
            the test images.
        level: Confidence level, between 0 and 1.

    Raises:
        UserError: If the class is unknown or the prevalence is out of range.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(f"the prevalence must be between 0 and 1, not {prevalence}")
    scores, is_target = _scores(test, point.class_name)
    positive, patient_index = scores >= point.threshold, test.patient_index

    def intervals(confidence: float) -> tuple[Interval, Interval]:
        return (
            clustered_exact_interval(positive[is_target], patient_index[is_target], confidence),
            clustered_exact_interval(~positive[~is_target], patient_index[~is_target], confidence),
        )

    sensitivity, specificity = intervals(level)
    share = float(is_target.mean()) if prevalence is None else prevalence
    wide = intervals(1 - (1 - level) / 2)
    corners = [
        predictive_values(*pair, share)
        for pair in ((sensitivity.value, specificity.value), (wide[0].low, wide[1].low), (wide[0].high, wide[1].high))
    ]
    method = "Bayes' rule, conservative limits"
    ppv, npv = (
        Interval(value, low, high, method, "" if np.isfinite(value) else "a class has no test image or prediction")
        for value, low, high in zip(*corners, strict=True)
    )
    return OperatingResult(point, sensitivity, specificity, share, prevalence is None, ppv, npv)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """PPV and NPV by Bayes' rule, in [0, 1]; nan if no case is predicted positive (PPV) or negative (NPV)."""
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
            f"{class_name!r} is not a class of these predictions; use one of {', '.join(predictions.class_names)}"
        )
    k = predictions.class_names.index(class_name)
    return predictions.probabilities[:, k], predictions.labels == k
