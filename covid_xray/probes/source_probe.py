"""Can the source be read off the features: a linear probe by patient, and how source and label hang together."""

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
    """How well a linear classifier tells sources apart from a model's features.

    Attributes:
        accuracy: Cross-validated share of images whose source is named, clustered by patient.
        no_information_rate: Share of the largest source.
        images: Images that took part.
        text: The finding in words, or why there is none.
    """

    accuracy: Interval
    no_information_rate: float
    images: int
    text: str


def label_from_source(labels: Sequence[str], sources: Sequence[str]) -> tuple[float, str]:
    """Share of images whose label follows from the source alone (each source's commonest label), and words for it.

    Raises:
        UserError: If the lengths differ or are 0.
    """
    truth, origin = np.asarray(labels), np.asarray(sources)
    if truth.shape != origin.shape or truth.size == 0:
        raise UserError(f"every image needs a label and a source; got {truth.size} and {origin.size}")
    hits = sum(np.unique(truth[origin == name], return_counts=True)[1].max() for name in np.unique(origin))
    share, base = hits / truth.size, np.unique(truth, return_counts=True)[1].max() / truth.size
    if len(np.unique(origin)) == 1:
        return share, "All images come from one source, so the source cannot give the label away."
    exclusive = [
        f"{label} (only {origin[truth == label][0]})"
        for label in np.unique(truth)
        if len(np.unique(origin[truth == label])) == 1 and not set(origin[truth == label]) & set(origin[truth != label])
    ]
    text = f"The source alone gives the right label for {100 * share:.0f} % of images ({100 * base:.0f} % by guessing)."
    if exclusive:
        text += (
            f" Source and label are the same thing for {', '.join(exclusive)}: no figure from these images can tell "
            "reading the disease from reading the source."
        )
    return share, text


def probe_source(
    features: npt.ArrayLike, sources: Sequence[str], patients: Sequence[str], folds: int = FOLDS, seed: int = 0
) -> Probe:
    """Predict each image's source from its features by logistic regression, no patient on both sides.

    Args:
        features: One row per image (n, d), as before the classifier's last layers.
        sources: Source of each image (n,).
        patients: Patient of each image (n,).
        folds: Number of folds, at least 2; fewer are used where a source has fewer patients.
        seed: Seed of the folds.

    Returns:
        The probe; where there is one source, or a source with a single patient only, without a value and saying so.

    Raises:
        UserError: If the lengths differ, a feature is not finite or there are fewer than 2 folds.

    Source: Alain and Bengio 2017 (linear probes).
    """
    values = np.asarray(features, dtype=np.float64)
    origin, owner = np.asarray(sources), np.asarray(patients)
    if values.ndim != 2 or not len(values) == len(origin) == len(owner):
        raise UserError(
            f"the probe needs features (n, d), sources and patients; got {values.shape}, {len(origin)}, {len(owner)}"
        )
    if folds < 2:
        raise UserError(f"the probe needs at least 2 folds, not {folds}")
    if not np.isfinite(values).all():
        raise UserError("the probe: a feature is not finite")
    names, counts = np.unique(origin, return_counts=True)
    if len(names) < 2:
        return _without(len(origin), "all images come from one source")
    people = {str(name): len(np.unique(owner[origin == name])) for name in names}
    fewest = min(people, key=lambda name: people[name])
    folds = min(folds, people[fewest])
    if folds < 2:
        return _without(len(origin), f"source {fewest} has a single patient")
    hits = _cross_validated_hits(values, origin, owner, folds, seed)
    accuracy = clustered_exact_interval(hits, owner)
    rate = float(counts.max() / len(origin))
    told = "the features carry the source" if accuracy.low > rate else "the features do not surely carry the source"
    text = (
        f"A linear probe names the source of {accuracy.text(percent=True)} of {len(origin)} images, {100 * rate:.0f} % "
    )
    return Probe(accuracy, rate, len(origin), f"{text}by guessing: {told}.")


def probe_within_classes(
    features: npt.ArrayLike,
    labels: Sequence[str],
    sources: Sequence[str],
    patients: Sequence[str],
    folds: int = FOLDS,
    seed: int = 0,
) -> dict[str, Probe]:
    """`probe_source` among the images of each class, by class: there the label cannot stand in for the source."""
    truth, values = np.asarray(labels), np.asarray(features, dtype=np.float64)
    origin, owner = np.asarray(sources), np.asarray(patients)
    return {
        str(name): probe_source(values[truth == name], origin[truth == name], owner[truth == name], folds, seed)
        for name in np.unique(truth)
    }


def _cross_validated_hits(
    values: FloatArray, origin: np.ndarray, owner: np.ndarray, folds: int, seed: int
) -> npt.NDArray[np.bool_]:
    hits = np.zeros(len(origin), dtype=bool)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(values, origin, owner):
        # A fold may get all patients of a rare source; naming the only source left is then all that can be done.
        if len(np.unique(origin[train])) < 2:
            hits[test] = origin[test] == origin[train][0]
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        hits[test] = model.fit(values[train], origin[train]).predict(values[test]) == origin[test]
    return hits


def _without(images: int, reason: str) -> Probe:
    missing = Interval(np.nan, np.nan, np.nan, "", reason)
    return Probe(missing, np.nan, images, f"No probe of the source: {reason}.")
