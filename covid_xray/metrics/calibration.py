"""Probability calibration: proper scores, calibration errors and temperature scaling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from covid_xray.errors import UserError
from covid_xray.metrics.predictions import FloatArray, IntArray

BINS = 15
# scikit-learn's log_loss clips float64 to this value: a probability of 0 then has an NLL of 36, not infinity.
TINY = float(np.finfo(np.float64).eps)
_MAX_TEMPERATURE = 100.0


@dataclass(frozen=True)
class ReliabilityBins:
    """Accuracy and mean confidence of the images in bins of equal width over [0, 1].

    Attributes:
        edges: Bin edges (bins + 1,).
        counts: Number of images in each bin (bins,).
        confidence: Mean probability in each bin (bins,); nan if the bin is empty.
        accuracy: Share of correct images in each bin (bins,); nan if the bin is empty.
    """

    edges: FloatArray
    counts: IntArray
    confidence: FloatArray
    accuracy: FloatArray


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature, and the negative log-likelihood of the images that it was fitted on.

    Attributes:
        value: The temperature, above 0. A value above 1 means that the model is overconfident.
        nll_before: Mean negative log-likelihood at temperature 1.
        nll_after: Mean negative log-likelihood at ``value``.
        warning: Why the fit has no optimum; empty if it has one.
    """

    value: float
    nll_before: float
    nll_after: float
    warning: str = ""


@dataclass(frozen=True)
class Recalibration:
    """A temperature and a shift of each class: probabilities are softmax(logits / temperature + shifts).

    Attributes:
        temperature: Above 0.
        shifts: One per class, in nats; they sum to 0.
    """

    temperature: float
    shifts: tuple[float, ...]


def image_nll(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Negative log-likelihood of each image (n,), in nats. Probabilities are clipped to [2.2e-16, 1]."""
    label_probability: FloatArray = probabilities[np.arange(len(labels)), labels]
    nll: FloatArray = -np.log(np.clip(label_probability, TINY, 1.0))
    return nll


def image_brier(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Squared distance between the probabilities and the one-hot label of each image (n,), summed over classes: 0 to 2.

    Source: Brier 1950, in its original, multi-class form.
    """
    brier: FloatArray = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return brier


def nll(labels: IntArray, probabilities: FloatArray) -> float:
    """Mean negative log-likelihood, in nats, at least 0."""
    return float(image_nll(labels, probabilities).mean())


def brier(labels: IntArray, probabilities: FloatArray) -> float:
    """Mean multi-class Brier score, 0 to 2."""
    return float(image_brier(labels, probabilities).mean())


def bin_index(confidence: FloatArray, bins: int = BINS) -> IntArray:
    """Index of each value's bin, for ``bins`` bins of equal width over [0, 1]. The value 1 is in the last bin."""
    index: IntArray = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    return index


def reliability_bins(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> ReliabilityBins:
    """Group images by confidence into bins of equal width.

    Args:
        confidence: Predicted probability of each image (n,), in [0, 1].
        correct: Whether each prediction is correct (n,).
        bins: Number of bins, at least 1.

    Raises:
        UserError: If the lengths differ or ``bins`` is below 1.
    """
    predicted, observed = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != observed.shape:
        raise UserError(
            f"confidence and correct must be 1-D and of equal length, not {predicted.shape} and {observed.shape}"
        )
    if bins < 1:
        raise UserError(f"calibration needs at least one bin, not {bins}")
    index = bin_index(predicted, bins)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=predicted, minlength=bins) / counts
        accuracy = np.bincount(index, weights=observed, minlength=bins) / counts
    return ReliabilityBins(np.linspace(0, 1, bins + 1), counts, mean, accuracy)


def top_label_bins(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> ReliabilityBins:
    """Reliability of the predicted class: its probability against its accuracy."""
    return reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def ece(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> float:
    """Expected calibration error of the predicted class, 0 to 1.

    Small samples bias it upwards, so always report it with its interval.

    Source: Guo et al. 2017, with bins of equal width.
    """
    return _gap(top_label_bins(labels, probabilities, bins))


def class_calibration_errors(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> FloatArray:
    """Calibration error of each class against all others (c,), 0 to 1. Their mean: classwise ECE, Kull et al. 2019."""
    classes = range(probabilities.shape[1])
    return np.array([_gap(reliability_bins(probabilities[:, k], labels == k, bins)) for k in classes])


def apply_temperature(logits: npt.ArrayLike, temperature: float) -> FloatArray:
    """Probabilities (n, c) of logits (n, c) divided by a temperature. The order of the classes does not change.

    Raises:
        UserError: If the temperature is not a finite number above 0.
    """
    if not np.isfinite(temperature) or temperature <= 0:
        raise UserError(f"the temperature must be a finite number above 0, not {temperature}")
    probabilities: FloatArray = special.softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return probabilities


def fit_temperature(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Temperature:
    """Find the temperature that minimises the negative log-likelihood. Use validation images, never test images.

    Args:
        labels: True class of each image (n,).
        logits: Logits of each image (n, c).

    Returns:
        The temperature, between 0.01 and 100. It is 1, with a warning, if all images are classified correctly.

    Raises:
        UserError: If there are no images or a logit is not finite.

    Source: Guo et al. 2017; minimised over the logarithm of the temperature.
    """
    from scipy import optimize  # here, because it takes long to import and predictions need none

    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or len(truth) == 0 or len(truth) != len(scores):
        raise UserError(
            f"temperature scaling needs one label per image and at least one image; got labels of shape {truth.shape} "
            f"and logits of shape {scores.shape}"
        )
    if not np.isfinite(scores).all():
        raise UserError("temperature scaling: a logit of the validation images is not finite")
    label_logit = scores[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((special.logsumexp(scores * inverse, axis=1) - label_logit * inverse).mean())

    if (label_logit == scores.max(axis=1)).all():
        # The likelihood has no maximum here: it grows as the temperature approaches 0.
        warning = "temperature scaling is skipped: all validation images are correct, so no optimal temperature exists"
        return Temperature(1.0, loss(0.0), loss(0.0), warning)
    bound = float(np.log(_MAX_TEMPERATURE))
    found = optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    warning = ""
    if abs(found.x) > 0.99 * bound:
        warning = (
            "temperature scaling found no optimum: on the validation images the probabilities are not related to the "
            "labels; do not trust calibrated probabilities"
        )
    return Temperature(float(np.exp(found.x)), loss(0.0), float(found.fun), warning)


def apply_shares(probabilities: FloatArray, before: Sequence[float], after: Sequence[float]) -> FloatArray:
    """Probabilities (n, c) for a population with other shares of the classes.

    Args:
        probabilities: For a population with the shares ``before``, such as that of the training images.
        before: Share of each class (c,), above 0.
        after: Share of each class in the other population (c,), at least 0; equal shares give the decision with the
            highest balanced accuracy.

    Source: Saerens, Latinne and Decaestecker 2002; equal shares: Menon et al. 2021 (post-hoc logit adjustment).
    """
    weighted = probabilities * (np.asarray(after) / np.asarray(before))
    adjusted: FloatArray = weighted / weighted.sum(axis=1, keepdims=True)
    return adjusted


def recalibrate(logits: npt.ArrayLike, fitted: Recalibration) -> FloatArray:
    """Probabilities (n, c) of logits (n, c) after recalibration."""
    scores = np.asarray(logits, dtype=np.float64) / fitted.temperature + np.asarray(fitted.shifts)
    probabilities: FloatArray = special.softmax(scores, axis=1)
    return probabilities


def fit_recalibration(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Recalibration:
    """Fit a temperature and a shift of each class on a few images of another data set.

    The shifts follow classes that are more or less frequent there than in training. With few images the likelihood has
    no sharp maximum, so standard normal priors on the shifts and on the logarithm of the temperature bound them.

    Args:
        labels: True class of each image (n,).
        logits: Logits of each image (n, c).

    Source: Alexandari, Kundaje and Shrikumar 2020 (bias-corrected temperature scaling); the priors are ours.
    """
    from scipy import optimize

    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    n, c = scores.shape

    def loss(parameters: FloatArray) -> float:
        shifted = scores * np.exp(-parameters[0]) + parameters[1:]
        likelihood = (special.logsumexp(shifted, axis=1) - shifted[np.arange(n), truth]).sum()
        return float(likelihood + (parameters**2).sum() / 2)

    found = optimize.minimize(loss, np.zeros(1 + c), method="BFGS").x
    shifts = found[1:] - found[1:].mean()  # a common shift changes no probability
    return Recalibration(float(np.exp(found[0])), tuple(map(float, shifts)))


def _gap(bins: ReliabilityBins) -> float:
    filled = bins.counts > 0
    gaps = np.abs(bins.accuracy[filled] - bins.confidence[filled])
    return float((gaps * bins.counts[filled]).sum() / bins.counts.sum())
