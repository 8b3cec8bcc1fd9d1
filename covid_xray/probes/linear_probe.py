"""Linear probe of an encoder: how well logistic regression on its frozen features separates the classes."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covid_xray.errors import UserError
from covid_xray.metrics.predictions import FloatArray, IntArray

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # values of C to choose from
INNER_FOLDS = 3


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of the cross-validation.

    Attributes:
        rows: Its test images (k,), numbers of rows.
        probabilities: Probability of each class (k, c).
        penalty: The chosen C, the inverse of the penalty's weight.
    """

    rows: IntArray
    probabilities: FloatArray
    penalty: float


def probe_folds(
    features: npt.ArrayLike, labels: Sequence[str], patients: Sequence[str], folds: int = 5, seed: int = 0
) -> Iterator[Fold]:
    """Cross-validated probabilities of logistic regression on standardised features, one fold after the other.

    No patient is in two folds. C is chosen in each fold by an inner cross-validation of the training patients, by the
    cross-entropy. The classes are in sorted order.

    Args:
        features: Of every image (n, d).
        labels: Class of every image (n,).
        patients: Patient of every image (n,).
        folds: Number of folds.
        seed: Seed of the division into folds.

    Raises:
        UserError: If the lengths differ, a feature is not finite, or a class has too few patients.

    Source: Alain and Bengio 2017 (linear probes).
    """
    values, truth, groups = np.asarray(features, dtype=np.float64), np.asarray(labels), np.asarray(patients)
    _check(values, truth, groups, folds)
    outer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in outer.split(values, truth, groups):
        x, y, of_patient = values[train], truth[train], groups[train]
        classes = np.unique(truth)
        inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=seed)
        losses = np.zeros(len(PENALTIES))
        for fit, val in inner.split(x, y, of_patient):
            found = _probabilities(x[fit], y[fit], x[val], classes, PENALTIES)
            own = np.searchsorted(classes, y[val])
            losses += [-np.log(np.maximum(each[np.arange(len(own)), own], 1e-12)).sum() for each in found]
        penalty = PENALTIES[int(np.argmin(losses))]
        (probabilities,) = _probabilities(x, y, values[test], classes, (penalty,))
        yield Fold(test.astype(np.int64), probabilities, penalty)


def _probabilities(
    x: FloatArray,
    y: npt.NDArray[np.str_],
    tested: FloatArray,
    classes: npt.NDArray[np.str_],
    penalties: Sequence[float],
) -> list[FloatArray]:
    """Probabilities (k, c) of the tested rows for each C; a class that training lacks has probability 0."""
    # The rotation by PCA changes no prediction, but leaves at most as many columns as there are rows.
    rotate = make_pipeline(StandardScaler(), PCA(svd_solver="full"))
    rotated, rotated_tested = rotate.fit_transform(x), rotate.transform(tested)
    found = []
    for penalty in penalties:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=penalty, max_iter=1000).fit(rotated, y)
        part = np.zeros((len(tested), len(classes)))
        part[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(rotated_tested)
        found.append(part)
    return found


def _check(values: FloatArray, truth: npt.NDArray[np.str_], groups: npt.NDArray[np.str_], folds: int) -> None:
    if values.ndim != 2 or not len(values) == len(truth) == len(groups):
        raise UserError(
            f"the probe needs features (n, d), n labels and patients; got features of shape {values.shape}, "
            f"{len(truth)} labels and {len(groups)} patients"
        )
    if not np.isfinite(values).all():
        raise UserError("the probe: a feature is not finite")
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise UserError(f"folds must be a whole number of at least 2, not {folds!r}")
    names = np.unique(truth)
    if len(names) < 2:
        raise UserError("the probe needs at least two classes")
    # With this many patients, every class is in the training part of each inner fold.
    least = max(folds, INNER_FOLDS + 1)
    for name in names:
        if (count := len(np.unique(groups[truth == name]))) < least:
            raise UserError(
                f"class {name} has {count} patients, and folds={folds} needs {least}; lower folds or add images"
            )
