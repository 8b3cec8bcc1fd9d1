"""Bootstrap over patients of every figure of merit at once.

A resample is a number of copies of each patient. Whatever is a function of sums over images (the confusion matrix, the
proper scores, the calibration gaps) needs only the patients' sums times these numbers: one matrix product. The ranking
areas need the images in the order of their scores, which does not change: sorted once, then cumulative sums.
"""

from collections.abc import Iterator

import numpy as np

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import BINS, bin_index, image_brier, image_nll
from covid_xray.metrics.predictions import FloatArray, IntArray, Predictions
from covid_xray.metrics.scores import OVERALL, PER_CLASS, class_scores, overall_scores

RESAMPLES = 2000
# Cells of the largest temporary array: a few of these stay within a core's cache reach and within 100 MiB.
_CELLS = 2_000_000


def bootstrap(
    predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0, bins: int = BINS
) -> dict[str, FloatArray]:
    """Draw patients with replacement and compute every figure of merit in every resample.

    The draws depend on the number of patients and the seed only: two models on the same images see the same
    resamples, so that differences can be taken resample by resample.

    Args:
        predictions: What the model said.
        resamples: Number of resamples, at least 1.
        seed: Seed of the draws, at least 0.
        bins: Bins of the calibration errors.

    Returns:
        Array (resamples,) by the names of `covid_xray.metrics.scores.score`; nan where not defined.

    Raises:
        UserError: If the number of resamples is below 1.

    Source: Efron 1979; patients as the unit: Field and Welsh 2007 (cluster bootstrap).
    """
    if resamples < 1:
        raise UserError(f"the bootstrap needs at least one resample, not {resamples}")
    names, owner, people = predictions.class_names, predictions.patient_index, predictions.n_patients
    sums = _patient_sums(_image_terms(predictions, bins), owner, people)
    order = [_Ranking(predictions.labels == k, predictions.probabilities[:, k], owner) for k in range(len(names))]
    chunks = []
    for copies in draw_patients(people, resamples, seed, max(people, len(owner))):
        values = _from_sums(copies @ sums, len(names), bins)
        areas = [ranking.areas(copies) for ranking in order]
        values["auroc"] = np.stack([auroc for auroc, _ in areas], axis=1)
        values["average_precision"] = np.stack([precision for _, precision in areas], axis=1)
        for metric in ("auroc", "average_precision"):
            values[f"macro_{metric}"] = _nanmean(values[metric])
        chunks.append(values)
    joined = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
    flat = {name: joined[name] for name in OVERALL}
    return flat | {f"{metric}/{name}": joined[metric][:, k] for metric in PER_CLASS for k, name in enumerate(names)}


def draw_patients(people: int, resamples: int, seed: int, width: int) -> Iterator[FloatArray]:
    """Yield arrays (some resamples, people) that say how often each patient is in each resample.

    Args:
        people: Number of patients, each resample's size.
        resamples: Number of resamples in all.
        seed: Seed of the draws.
        width: Length of the longest row that the caller will make; sets how many resamples come at once, and nothing
            else: the draws are the same however they are cut.
    """
    random = np.random.default_rng(seed)
    step = max(1, _CELLS // width)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        # int64 is drawn value by value, so that the stream does not depend on how it is cut into chunks.
        drawn = random.integers(0, people, size=(rows, people), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * people
        yield np.bincount(drawn.ravel(), minlength=rows * people).reshape(rows, people).astype(np.float64)


class _Ranking:
    """One class's images in the order of their scores, the highest first."""

    def __init__(self, own: np.ndarray, scores: FloatArray, owner: IntArray) -> None:
        order = np.argsort(-scores, kind="stable")
        self.owner = owner[order]
        own, scores = own[order], scores[order]
        first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
        last = np.r_[first[1:], len(scores)] - 1
        group = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(scores)]))
        self.own_owner = self.owner[own]
        # Cumulative sums get a column of zeros in front, so that "before the first" is column 0.
        self.before, self.upto = first[group[own]], last[group[own]] + 1
        self.tied = bool((self.upto - self.before > 1).any())
        own_seen = np.r_[0, np.cumsum(own)]
        self.own_before, self.own_upto = own_seen[self.before], own_seen[self.upto]

    def areas(self, copies: FloatArray) -> tuple[FloatArray, FloatArray]:
        """AUROC and average precision in each resample (rows,), given the copies of each patient (rows, people)."""
        weights = np.take(copies, self.own_owner, axis=1)
        seen = _cumulate(np.take(copies, self.owner, axis=1))
        own_seen = _cumulate(weights)
        own_total = own_seen[:, -1]
        other_total = seen[:, -1] - own_total
        everything = seen[:, self.upto]
        # Without ties the positives themselves are the columns, and picking columns is the dear part.
        hits = own_seen[:, self.own_upto] if self.tied else own_seen[:, 1:]
        above = everything - hits
        if self.tied:
            above = (above + seen[:, self.before] - own_seen[:, self.own_before]) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = 1 - (weights * above).sum(axis=1) / (own_total * other_total)
            precision = np.where(weights > 0, weights * hits / everything, 0.0).sum(axis=1) / own_total
        return auroc, precision


def _cumulate(weights: FloatArray) -> FloatArray:
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _image_terms(predictions: Predictions, bins: int) -> FloatArray:
    """What is summed over images (n, terms): confusion cells, NLL, Brier, gaps by bin (top label, then each class)."""
    labels, probabilities, predicted = predictions.labels, predictions.probabilities, predictions.predicted
    n, c = probabilities.shape
    rows = np.arange(n)
    terms = np.zeros((n, c * c + 2 + bins * (1 + c)))
    terms[rows, labels * c + predicted] = 1
    terms[:, c * c] = image_nll(labels, probabilities)
    terms[:, c * c + 1] = image_brier(labels, probabilities)
    gaps = terms[:, c * c + 2 :]
    sure = probabilities.max(axis=1)
    gaps[rows, bin_index(sure, bins)] = (predicted == labels) - sure
    for k in range(c):
        gaps[rows, bins * (1 + k) + bin_index(probabilities[:, k], bins)] = (labels == k) - probabilities[:, k]
    return terms


def _patient_sums(terms: FloatArray, owner: IntArray, people: int) -> FloatArray:
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(people))
    sums: FloatArray = np.add.reduceat(terms[order], starts, axis=0)
    return sums


def _from_sums(sums: FloatArray, c: int, bins: int) -> dict[str, FloatArray]:
    """Everything that follows from sums over images (rows, terms)."""
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


def _nanmean(values: FloatArray) -> FloatArray:
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.where(defined, values, 0.0).sum(axis=1) / defined.sum(axis=1)
    return mean
