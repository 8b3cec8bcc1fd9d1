"""Rank encoders by a linear probe of their features, on the same images and folds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from covid_xray.errors import UserError
from covid_xray.metrics.bootstrap import RESAMPLES
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import Estimates, estimate
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import OVERALL
from covid_xray.probes.linear_probe import Fold, probe_folds
from covid_xray.runs.embedding import Features

LOWER_IS_BETTER = ("nll", "brier", "ece", "classwise_ece")


@dataclass(frozen=True, eq=False)
class EncoderProbe:
    """Result of one encoder.

    Attributes:
        name: Its name.
        encoder: What made the features.
        dimensions: Number of features.
        predictions: Of every image, by the fold that did not train on its patient.
        estimates: Metrics of the predictions.
        penalties: The chosen C of every fold.
        difference: The metric minus that of the best encoder, with its paired interval; None for the best.
    """

    name: str
    encoder: str
    dimensions: int
    predictions: Predictions
    estimates: Estimates
    penalties: tuple[float, ...]
    difference: Interval | None = None


def probe(
    features: Mapping[str, Features] | Sequence[Features],
    folds: int = 5,
    *,
    metric: str = "macro_auroc",
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Callable[[str], object] = lambda name: None,
) -> list[EncoderProbe]:
    """Rank encoders, best first.

    Images that any of the encoders was trained or chosen on are left out for all of them.

    Args:
        features: Features of the same images, by name of the encoder.
        folds: Number of folds; no patient is in two of them.
        metric: The metric to rank by, such as ``macro_auroc`` or ``balanced_accuracy``.
        seed: Seed of the folds and of the bootstrap.
        resamples: Resamples of the bootstrap.
        progress: Called with the name of the encoder after every fold.

    Raises:
        UserError: If the images, labels or patients differ, no image is left, or a class has too few patients.
    """
    named = features if isinstance(features, Mapping) else {each.encoder: each for each in features}
    if not named or len(named) < len(features):
        raise UserError("probe needs at least one file of features, and a different name for each")
    if metric not in OVERALL or metric == "no_information_rate":
        raise UserError(f"metric must be one of {', '.join(OVERALL)}, not {metric!r}")
    aligned = _aligned(named)
    found = []
    for name, each in aligned.items():
        parts = []
        for part in probe_folds(each.values, list(each.table["label"]), list(each.table["patient_id"]), folds, seed):
            parts.append(part)
            progress(name)
        predictions = _joined(each, parts)
        penalties = tuple(part.penalty for part in parts)
        metrics = estimate(predictions, resamples, seed)
        found.append(EncoderProbe(name, each.encoder, each.values.shape[1], predictions, metrics, penalties))
    found.sort(key=lambda each: each.estimates.intervals[metric].value, reverse=metric not in LOWER_IS_BETTER)
    best, *others = found
    return [best, *(_against(best, other, metric, resamples, seed) for other in others)]


def _aligned(features: Mapping[str, Features]) -> dict[str, Features]:
    """Features of the same images in the same order, without those that an encoder has seen."""
    first, *others = features
    tables = {name: each.table.set_index("path") for name, each in features.items()}
    for name in others:
        if set(tables[name].index) != set(tables[first].index):
            raise UserError(f"{first} and {name} are of different images; embed the same data= with each encoder")
        same = tables[name].loc[tables[first].index, ["label", "patient_id"]] == tables[first][["label", "patient_id"]]
        if not same.all(axis=None):
            path = same.index[~same.all(axis=1)][0]
            raise UserError(f"{path} has another label or patient in {name} than in {first}; embed the same data=")
    paths = tables[first].index
    seen = np.any([tables[name].loc[paths, "seen"].to_numpy() for name in features], axis=0)
    if seen.all():
        raise UserError(
            "every image was in the training of an encoder, so none is left; embed other images with data=..."
        )
    if seen.any():
        print(f"Left out: {int(seen.sum())} of {len(seen)} images, which an encoder was trained on")
    kept = paths[~seen]
    found = {}
    for name, each in features.items():
        rows = tables[name].index.get_indexer(kept)
        found[name] = Features(each.values[rows], each.table.iloc[rows].reset_index(drop=True), each.encoder)
    return found


def _joined(features: Features, parts: Sequence[Fold]) -> Predictions:
    """Predictions of all folds, in the order of the images."""
    names = sorted(features.table["label"].unique())
    probabilities = np.zeros((len(features.table), len(names)))
    for part in parts:
        probabilities[part.rows] = part.probabilities
    labels = [names.index(label) for label in features.table["label"]]
    return Predictions.build(
        labels, probabilities, names, list(features.table["path"]), list(features.table["patient_id"])
    )


def _against(best: EncoderProbe, other: EncoderProbe, metric: str, resamples: int, seed: int) -> EncoderProbe:
    comparison = compare(best.predictions, other.predictions, (best.name, other.name), resamples, seed)
    return replace(other, difference=comparison.differences[metric])
