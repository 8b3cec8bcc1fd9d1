"""A test on another data set: the drop against the run's own test images, and recalibration on a few of its images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import Recalibration, fit_recalibration, recalibrate
from covid_xray.metrics.comparison import unpaired_difference
from covid_xray.metrics.estimates import Estimates, estimate, interval_dict
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import FloatArray, Predictions
from covid_xray.metrics.thresholds import OperatingResult, apply_operating_point, choose_operating_point

_DROPS = ("accuracy", "balanced_accuracy", "macro_auroc", "ece", "nll")
_CLASS_DROPS = ("sensitivity", "specificity", "auroc")


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """The model after recalibration on a few images of the data set, tested on the others.

    Attributes:
        fitted: Temperature and shift of each class.
        images: Number of images that it was fitted on.
        patients: Number of their patients; none of them is in the test.
        estimates: Metrics of the other images.
        thresholds: Operating points chosen on these images, on the others.
        warnings: One sentence for each operating point that could not be chosen.
    """

    fitted: Recalibration
    images: int
    patients: int
    estimates: Estimates
    thresholds: tuple[OperatingResult, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ExternalTest:
    """Comparison with the run's own test images.

    Attributes:
        own: Metrics of the run's own test images, calibrated in the same way; None if they are not there.
        no_own: Why there are none.
        drops: This data set minus the run's own test images, by metric.
        recalibrated: The recalibrated model, or None.
    """

    own: Estimates | None
    no_own: str
    drops: Mapping[str, Interval]
    recalibrated: Recalibrated | None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types for ``metrics.json``."""
        found = self.recalibrated
        return {
            "own_test": None if self.own is None else self.own.to_dict(),
            "no_own_test": self.no_own,
            "drops": {name: interval_dict(interval) for name, interval in self.drops.items()},
            "recalibrated": None
            if found is None
            else {
                "images": found.images,
                "patients": found.patients,
                "temperature": found.fitted.temperature,
                "shifts": list(found.fitted.shifts),
                "metrics": found.estimates.to_dict(),
                "warnings": list(found.warnings),
            },
        }


def few_patients(table: pd.DataFrame, images: int, seed: int) -> npt.NDArray[np.bool_]:
    """Draw patients at random until they have a number of images; they are left out of the test.

    Args:
        table: The images of the data set: column ``patient_id``.
        images: Number of images; a few more are drawn where the last patient has several.
        seed: Seed of the draw.

    Returns:
        Whether each image is drawn (n,).

    Raises:
        UserError: If the number is below 2, or more than half of the images are drawn.
    """
    if isinstance(images, bool) or not isinstance(images, int) or images < 2:
        raise UserError(f"recalibrate must be a whole number of at least 2, or null, not {images!r}")
    numbers, patients = pd.factorize(table["patient_id"])
    sizes = np.bincount(numbers, minlength=len(patients))
    order = np.random.default_rng(seed).permutation(len(patients))
    last = int(np.searchsorted(np.cumsum(sizes[order]), images))
    drawn: npt.NDArray[np.bool_] = np.isin(numbers, order[: last + 1])
    if 2 * drawn.sum() > len(table):
        raise UserError(
            f"recalibrate={images} takes {drawn.sum()} of the {len(table)} images (all images of each patient), and at "
            f"least half must be left to test on; give a smaller number"
        )
    return drawn


def drops(own: Estimates, found: Estimates) -> dict[str, Interval]:
    """Metrics of a data set minus those of the run's own test images, with intervals, by name."""
    names = [*_DROPS, *(f"{metric}/{name}" for metric in _CLASS_DROPS for name in own.cases)]
    return {name: unpaired_difference(own.intervals[name], found.intervals[name]) for name in names}


def recalibrated(
    few: Predictions,
    few_logits: FloatArray,
    rest: Predictions,
    rest_logits: FloatArray,
    prevalence: Mapping[str, float],
    resamples: int,
    seed: int,
) -> Recalibrated:
    """Recalibrate on a few images, and test on the others.

    Args:
        few: Predictions of the few images.
        few_logits: Their logits (n, c).
        rest: Predictions of the other images, of other patients.
        rest_logits: Their logits.
        prevalence: Share of a class in the target population, for PPV and NPV.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
    """
    fitted = fit_recalibration(few.labels, few_logits)
    chosen_on = few.with_probabilities(recalibrate(few_logits, fitted))
    tested = rest.with_probabilities(recalibrate(rest_logits, fitted))
    thresholds, warnings = [], []
    for name in few.class_names:
        try:
            point = choose_operating_point(chosen_on, name)
        except UserError as error:
            warnings.append(str(error).replace("validation image", "image for recalibration"))
            continue
        point = replace(point, rule=f"largest Youden index on {len(few.labels)} images of this data set")
        thresholds.append(apply_operating_point(point, tested, prevalence.get(name)))
    estimates = estimate(tested, resamples, seed)
    return Recalibrated(fitted, len(few.labels), few.n_patients, estimates, tuple(thresholds), tuple(warnings))
