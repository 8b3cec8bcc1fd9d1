"""Linear probe of the image source in a model's features, and the association of source and label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import Interval, clustered_exact_interval
from covid_xray.metrics.predictions import FloatArray

FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """Result of a linear classifier that predicts the source from a model's features.

    Attributes:
        accuracy: Cross-validated accuracy of the predicted source, with images clustered by patient.
        no_information_rate: Share of the largest source.
        images: Number of images.
        text: The result in one sentence, or why there is no result.
    """

    accuracy: Interval
    no_information_rate: float
    images: int
    text: str


def label_from_source(labels: Sequence[str], sources: Sequence[str]) -> tuple[float, str]:
    """Accuracy of predicting each image's label as the most frequent label of its source, and a sentence about it.

    Raises:
        UserError: If the lengths differ or are 0.
    """
    truth, origin = np.asarray(labels), np.asarray(sources)
    if truth.shape != origin.shape or truth.size == 0:
        raise UserError(f"each image needs a label and a source; got {truth.size} labels and {origin.size} sources")
    hits = sum(np.unique(truth[origin == name], return_counts=True)[1].max() for name in np.unique(origin))
    share, base = hits / truth.size, np.unique(truth, return_counts=True)[1].max() / truth.size
    if len(np.unique(origin)) == 1:
        return share, "All images come from one source, so the source does not predict the label."
    exclusive = [
        f"{label} (only {origin[truth == label][0]})"
        for label in np.unique(truth)
        if len(np.unique(origin[truth == label])) == 1 and not set(origin[truth == label]) & set(origin[truth != label])
    ]
    text = f"The source alone predicts the label of {100 * share:.0f} % of images (chance: {100 * base:.0f} %)."
    if exclusive:
        text += (
            f" Source and label are identical for {', '.join(exclusive)}: no metric on these images can distinguish "
            "a model that reads the disease from one that reads the source."
        )
    return share, text


def probe_source(
    features: npt.ArrayLike, sources: Sequence[str], patients: Sequence[str], folds: int = FOLDS, seed: int = 0
) -> Probe:
    """Predict the source of each image from its features by logistic regression, cross-validated by patient.

    Args:
        features: One row per image (n, d), such as the pooled features before the head.
        sources: Source of each image (n,).
        patients: Patient of each image (n,).
        folds: Number of folds, at least 2. It is reduced if a source has fewer patients.
        seed: Seed of the folds.

    Returns:
        The result. Its values are nan, with a reason, if there is only one source or a source has only one patient.

    Raises:
        UserError: If the lengths differ, a feature is not finite or there are fewer than 2 folds.

    Source: Alain and Bengio 2017 (linear probes).
    """
    values = np.asarray(features, dtype=np.float64)
    origin, patient_ids = np.asarray(sources), np.asarray(patients)
    if values.ndim != 2 or not len(values) == len(origin) == len(patient_ids):
        raise UserError(
            f"the probe needs features (n, d), n sources and patients; got features of shape {values.shape}, "
            f"{len(origin)} sources and {len(patient_ids)} patients"
        )
    if folds < 2:
        raise UserError(f"the probe needs at least 2 folds, not {folds}")
    if not np.isfinite(values).all():
        raise UserError("the probe: a feature is not finite")
    names, counts = np.unique(origin, return_counts=True)
    if len(names) < 2:
        return _without(len(origin), "all images come from one source")
    n_patients = {str(name): len(np.unique(patient_ids[origin == name])) for name in names}
    fewest = min(n_patients, key=lambda name: n_patients[name])
    folds = min(folds, n_patients[fewest])
    if folds < 2:
        return _without(len(origin), f"source {fewest} has only one patient")
    hits = _cross_validated_hits(values, origin, patient_ids, folds, seed)
    accuracy = clustered_exact_interval(hits, patient_ids)
    rate = float(counts.max() / len(origin))
    finding = "contain" if accuracy.low > rate else "do not significantly contain"
    text = (
        f"A linear probe predicts the source of {accuracy.text(percent=True)} of {len(origin)} images "
        f"(chance: {100 * rate:.0f} %): the features {finding} information about the source."
    )
    return Probe(accuracy, rate, len(origin), text)


def probe_within_classes(
    features: npt.ArrayLike,
    labels: Sequence[str],
    sources: Sequence[str],
    patients: Sequence[str],
    folds: int = FOLDS,
    seed: int = 0,
) -> dict[str, Probe]:
    """Run `probe_source` on the images of each class. Within a class, the label cannot predict the source."""
    truth, values = np.asarray(labels), np.asarray(features, dtype=np.float64)
    origin, patient_ids = np.asarray(sources), np.asarray(patients)
    return {
        str(name): probe_source(values[truth == name], origin[truth == name], patient_ids[truth == name], folds, seed)
        for name in np.unique(truth)
    }


def _cross_validated_hits(
    values: FloatArray, origin: np.ndarray, patient_ids: np.ndarray, folds: int, seed: int
) -> npt.NDArray[np.bool_]:
    hits = np.zeros(len(origin), dtype=bool)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(values, origin, patient_ids):
        # If a test fold has all patients of a source, only one source can remain for training: predict that one.
        if len(np.unique(origin[train])) < 2:
            hits[test] = origin[test] == origin[train][0]
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        hits[test] = model.fit(values[train], origin[train]).predict(values[test]) == origin[test]
    return hits


def _without(images: int, reason: str) -> Probe:
    missing = Interval(np.nan, np.nan, np.nan, "", reason)
    return Probe(missing, np.nan, images, f"No source probe: {reason}.")
