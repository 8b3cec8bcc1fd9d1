"""AUROC and average precision, of images and of resamples of them: one sort, then only cumulative sums.

Tied scores count half in the AUROC (Mann and Whitney 1947). The average precision is the sum of the precision at each
threshold, times the increase of the recall, without interpolation, as in scikit-learn.
"""

import numpy as np

from covid_xray.metrics.predictions import FloatArray, IntArray


class Ranking:
    """The images sorted by the score of one class, highest first.

    Args:
        is_target: Whether each image is of the class (n,).
        scores: Score of each image (n,).
        patient_index: Index of each image's patient (n,), from 0.
    """

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
        """Compute the areas of resamples.

        Args:
            copies: Number of copies of each patient in each resample (rows, n_patients); ones give the areas of the
                images themselves.

        Returns:
            AUROC and average precision (rows,). The AUROC is nan in a resample without an image of the class or without
            another image; the average precision is nan without an image of the class.
        """
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
