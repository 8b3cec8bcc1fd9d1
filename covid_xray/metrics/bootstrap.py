"""Patient-level bootstrap of all metrics.

A resample is an array with the number of copies of each patient. Metrics that are functions of sums over images (the
confusion matrix, NLL, Brier score, calibration errors) need only each patient's sums, weighted by these numbers: one
matrix product. AUROC and average precision need the images sorted by score. This order is the same in all resamples,
so each class is sorted once, and each resample needs only cumulative sums.
"""

from collections.abc import Iterator

import numpy as np

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import BINS, bin_index, image_brier, image_nll
from covid_xray.metrics.predictions import FloatArray, IntArray, Predictions
from covid_xray.metrics.scores import OVERALL, PER_CLASS, class_scores, nan_mean, overall_scores

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
        nan.

    Raises:
        UserError: If the number of resamples is below 1.

    Source: Efron 1979; patients as the resampling unit: Field and Welsh 2007 (cluster bootstrap).
    """
    if resamples < 1:
        raise UserError(f"the bootstrap needs at least one resample, not {resamples}")
    names, patient_index, n_patients = predictions.class_names, predictions.patient_index, predictions.n_patients
    sums = _patient_sums(_image_terms(predictions, bins), patient_index, n_patients)
    rankings = [
        _Ranking(predictions.labels == k, predictions.probabilities[:, k], patient_index) for k in range(len(names))
    ]
    chunks = []
    for copies in draw_patients(n_patients, resamples, seed, max(n_patients, len(patient_index))):
        values = _from_sums(copies @ sums, len(names), bins)
        areas = [ranking.areas(copies) for ranking in rankings]
        values["auroc"] = np.stack([auroc for auroc, _ in areas], axis=1)
        values["average_precision"] = np.stack([precision for _, precision in areas], axis=1)
        for metric in ("auroc", "average_precision"):
            values[f"macro_{metric}"] = nan_mean(values[metric])
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


class _Ranking:
    """The images sorted by the score of one class, highest first."""

    def __init__(self, is_target: np.ndarray, scores: FloatArray, patient_index: IntArray) -> None:
        order = np.argsort(-scores, kind="stable")
        self.patients = patient_index[order]
        is_target, scores = is_target[order], scores[order]
        first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
        last = np.r_[first[1:], len(scores)] - 1
        group = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(scores)]))
        self.target_patients = self.patients[is_target]
        # The cumulative sums start with a column of zeros, so column i holds the sum of the first i images.
        self.before, self.upto = first[group[is_target]], last[group[is_target]] + 1
        self.tied = bool((self.upto - self.before > 1).any())
        n_targets = np.r_[0, np.cumsum(is_target)]
        self.targets_before, self.targets_upto = n_targets[self.before], n_targets[self.upto]

    def areas(self, copies: FloatArray) -> tuple[FloatArray, FloatArray]:
        """AUROC and average precision of each resample (rows,), from the copies of each patient (rows, n_patients)."""
        weights = np.take(copies, self.target_patients, axis=1)
        images = _cumulate(np.take(copies, self.patients, axis=1))
        targets = _cumulate(weights)
        n_targets = targets[:, -1]
        n_others = images[:, -1] - n_targets
        ranked = images[:, self.upto]
        # Without ties the columns are the target images in order. A slice avoids the slow column indexing.
        hits = targets[:, self.targets_upto] if self.tied else targets[:, 1:]
        above = ranked - hits
        if self.tied:
            above = (above + images[:, self.before] - targets[:, self.targets_before]) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = 1 - (weights * above).sum(axis=1) / (n_targets * n_others)
            precision = np.where(weights > 0, weights * hits / ranked, 0.0).sum(axis=1) / n_targets
        return auroc, precision


def _cumulate(weights: FloatArray) -> FloatArray:
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


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
