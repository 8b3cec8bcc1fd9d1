"""Patient-level bootstrap of all metrics.

A resample is an array with the number of copies of each patient. Metrics that are functions of sums over images (the
confusion matrix, NLL, Brier score, calibration errors) need only each patient's sums, weighted by these numbers: one
matrix product. AUROC and average precision come from `covid_xray.metrics.ranking.Ranking`, which sorts each class once.
"""

from collections.abc import Iterator

import numpy as np

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import BINS, bin_index, image_brier, image_nll
from covid_xray.metrics.predictions import FloatArray, IntArray, Predictions
from covid_xray.metrics.ranking import Ranking
from covid_xray.metrics.scores import ALL_CLASSES, OVERALL, PER_CLASS, class_scores, nan_mean, overall_scores

RESAMPLES = 2000
# Cells of the largest temporary array: a few arrays of this size fit into 100 MiB.
_CELLS = 2_000_000


def bootstrap(
    predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0, bins: int = BINS
) -> dict[str, FloatArray]:
    """Draw patients with replacement and compute all metrics in each resample.

    The draws depend only on the number of patients and the seed. Two models that are tested on the same images
    therefore get the same resamples, and their metrics can be subtracted resample by resample.

    Args:
        predictions: Predictions of the model.
        resamples: Number of resamples, at least 1.
        seed: Seed of the draws, at least 0.
        bins: Number of bins of the calibration errors.

    Returns:
        Array (resamples,) by metric name, with the names of `covid_xray.metrics.scores.score`. Undefined values are
        nan. Those of `covid_xray.metrics.scores.ALL_CLASSES` are nan in a resample that lacks a class of the test set.

    Raises:
        UserError: If the number of resamples is below 1.

    Source: Efron 1979; patients as the resampling unit: Field and Welsh 2007 (cluster bootstrap).
    """
    if resamples < 1:
        raise UserError(f"the bootstrap needs at least one resample, not {resamples}")
    names, patient_index, n_patients = predictions.class_names, predictions.patient_index, predictions.n_patients
    sums = _patient_sums(_image_terms(predictions, bins), patient_index, n_patients)
    rankings = [
        Ranking(predictions.labels == k, predictions.probabilities[:, k], patient_index) for k in range(len(names))
    ]
    occurs = np.bincount(predictions.labels, minlength=len(names)) > 0
    chunks = []
    for copies in draw_patients(n_patients, resamples, seed, max(n_patients, len(patient_index))):
        values = _from_sums(copies @ sums, len(names), bins)
        areas = [ranking.areas(copies) for ranking in rankings]
        values["auroc"] = np.stack([auroc for auroc, _ in areas], axis=1)
        values["average_precision"] = np.stack([precision for _, precision in areas], axis=1)
        for metric in ("auroc", "average_precision"):
            values[f"macro_{metric}"] = nan_mean(values[metric])
        absent = (np.isnan(values["sensitivity"]) & occurs).any(axis=1)
        for metric in ALL_CLASSES:
            values[metric] = np.where(absent, np.nan, values[metric])
        chunks.append(values)
    joined = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
    flat = {name: joined[name] for name in OVERALL}
    return flat | {f"{metric}/{name}": joined[metric][:, k] for metric in PER_CLASS for k, name in enumerate(names)}


def draw_patients(n_patients: int, resamples: int, seed: int, width: int) -> Iterator[FloatArray]:
    """Yield arrays (chunk, n_patients) with the number of copies of each patient in each resample.

    Args:
        n_patients: Number of patients, and the size of each resample.
        resamples: Total number of resamples.
        seed: Seed of the draws.
        width: Length of the longest row that the caller computes. It sets only the number of resamples per chunk; the
            draws do not depend on it.
    """
    random = np.random.default_rng(seed)
    step = max(1, _CELLS // width)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        # int64 is drawn value by value, so the draws do not depend on the chunk size.
        drawn = random.integers(0, n_patients, size=(rows, n_patients), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * n_patients
        copies = np.bincount(drawn.ravel(), minlength=rows * n_patients)
        yield copies.reshape(rows, n_patients).astype(np.float64)


def _image_terms(predictions: Predictions, bins: int) -> FloatArray:
    """Terms of each image (n, terms): confusion cells, NLL, Brier score, gaps by bin (top label, then each class)."""
    labels, probabilities, predicted = predictions.labels, predictions.probabilities, predictions.predicted
    n, c = probabilities.shape
    rows = np.arange(n)
    terms = np.zeros((n, c * c + 2 + bins * (1 + c)))
    terms[rows, labels * c + predicted] = 1
    terms[:, c * c] = image_nll(labels, probabilities)
    terms[:, c * c + 1] = image_brier(labels, probabilities)
    gaps = terms[:, c * c + 2 :]
    confidence = probabilities.max(axis=1)
    gaps[rows, bin_index(confidence, bins)] = (predicted == labels) - confidence
    for k in range(c):
        gaps[rows, bins * (1 + k) + bin_index(probabilities[:, k], bins)] = (labels == k) - probabilities[:, k]
    return terms


def _patient_sums(terms: FloatArray, patient_index: IntArray, n_patients: int) -> FloatArray:
    order = np.argsort(patient_index, kind="stable")
    starts = np.searchsorted(patient_index[order], np.arange(n_patients))
    sums: FloatArray = np.add.reduceat(terms[order], starts, axis=0)
    return sums


def _from_sums(sums: FloatArray, c: int, bins: int) -> dict[str, FloatArray]:
    """All metrics that are functions of sums over images (rows, terms)."""
    confusion = sums[:, : c * c].reshape(-1, c, c)
    total = confusion.sum(axis=(1, 2))
    gaps = np.abs(sums[:, c * c + 2 :]).reshape(len(sums), 1 + c, bins).sum(axis=2) / total[:, None]
    return (
        overall_scores(confusion)
        | class_scores(confusion)
        | {
            "nll": sums[:, c * c] / total,
            "brier": sums[:, c * c + 1] / total,
            "ece": gaps[:, 0],
            "calibration_error": gaps[:, 1:],
            "classwise_ece": gaps[:, 1:].mean(axis=1),
        }
    )
