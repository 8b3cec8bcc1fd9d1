"""Do the probabilities mean what they say: proper scores, calibration errors, and temperature scaling."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from covid_xray.errors import UserError
from covid_xray.metrics.predictions import FloatArray, IntArray

BINS = 15
# What scikit-learn's log_loss clips float64 to: a probability of exactly 0 then costs 36, not infinity.
TINY = float(np.finfo(np.float64).eps)
_HOTTEST = 100.0


@dataclass(frozen=True)
class ReliabilityBins:
    """How often the model is right where it says it is sure; bins of equal width over [0, 1].

    Attributes:
        edges: Bin edges (bins + 1,).
        counts: Images in each bin (bins,).
        confidence: Mean probability in each bin (bins,); nan where empty.
        accuracy: Share that is right in each bin (bins,); nan where empty.
    """

    edges: FloatArray
    counts: IntArray
    confidence: FloatArray
    accuracy: FloatArray


@dataclass(frozen=True)
class Temperature:
    """The number that logits are divided by, and what it does to the images that it was fitted on.

    Attributes:
        value: The temperature, above 0; above 1 the model was too sure of itself.
        nll_before: Mean negative log-likelihood at temperature 1.
        nll_after: The same at ``value``.
        warning: Words where the fit found no end, empty otherwise.
    """

    value: float
    nll_before: float
    nll_after: float
    warning: str = ""


def image_nll(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Negative log-likelihood of every image (n,), in nats; probabilities are clipped to [2.2e-16, 1]."""
    own: FloatArray = probabilities[np.arange(len(labels)), labels]
    nll: FloatArray = -np.log(np.clip(own, TINY, 1.0))
    return nll


def image_brier(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Squared distance of every image's probabilities from its label (n,), summed over the classes: 0 to 2.

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
    """Which of ``bins`` equally wide bins of [0, 1] each value falls into; the upper end belongs to the last bin."""
    index: IntArray = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    return index


def reliability_bins(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> ReliabilityBins:
    """Sort images by confidence into equally wide bins.

    Args:
        confidence: Probability that each image is said to have (n,), in [0, 1].
        correct: Whether it was right (n,).
        bins: Number of bins, at least 1.

    Raises:
        UserError: If the lengths differ or there is no bin.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise UserError(f"confidence and correct must be rows of one length, not {sure.shape} and {right.shape}")
    if bins < 1:
        raise UserError(f"calibration needs at least one bin, not {bins}")
    index = bin_index(sure, bins)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=sure, minlength=bins) / counts
        accuracy = np.bincount(index, weights=right, minlength=bins) / counts
    return ReliabilityBins(np.linspace(0, 1, bins + 1), counts, mean, accuracy)


def top_label_bins(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> ReliabilityBins:
    """Reliability of the predicted class: its probability against how often it is right."""
    return reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def ece(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> float:
    """Expected calibration error of the predicted class, 0 to 1.

    Source: Guo et al. 2017, with equally wide bins. It grows with noise in small samples: read it with its interval.
    """
    return _gap(top_label_bins(labels, probabilities, bins))


def class_calibration_errors(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> FloatArray:
    """Calibration error of every class's own probability against all others (c,), 0 to 1."""
    classes = range(probabilities.shape[1])
    return np.array([_gap(reliability_bins(probabilities[:, k], labels == k, bins)) for k in classes])


def classwise_ece(labels: IntArray, probabilities: FloatArray, bins: int = BINS) -> float:
    """Mean over the classes of `class_calibration_errors`, 0 to 1. Source: Kull et al. 2019."""
    return float(class_calibration_errors(labels, probabilities, bins).mean())


def log_probabilities(probabilities: npt.ArrayLike) -> FloatArray:
    """Logits (n, c) that give these probabilities; a constant per row is lost, which no softmax sees."""
    logits: FloatArray = np.log(np.clip(np.asarray(probabilities, dtype=np.float64), TINY, 1.0))
    return logits


def apply_temperature(logits: npt.ArrayLike, temperature: float) -> FloatArray:
    """Probabilities (n, c) of logits (n, c) divided by a temperature; the order of the classes stays.

    Raises:
        UserError: If the temperature is not a finite number above 0.
    """
    if not np.isfinite(temperature) or temperature <= 0:
        raise UserError(f"the temperature must be a number above 0, not {temperature}")
    probabilities: FloatArray = special.softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return probabilities


def fit_temperature(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Temperature:
    """Find the temperature with the least negative log-likelihood; for validation images only, never test images.

    Args:
        labels: True class of every image (n,).
        logits: Logits (n, c), or `log_probabilities`.

    Returns:
        The temperature, between 0.01 and 100; 1 with a warning where all images are right already.

    Raises:
        UserError: If there are no images or a logit is not finite.

    Source: Guo et al. 2017; minimised over the logarithm of the temperature.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or len(truth) == 0 or len(truth) != len(scores):
        raise UserError(f"temperature scaling needs images with a label each; got {truth.shape} and {scores.shape}")
    if not np.isfinite(scores).all():
        raise UserError("temperature scaling: a logit of the validation images is not finite")
    own = scores[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((special.logsumexp(scores * inverse, axis=1) - own * inverse).mean())

    if (own == scores.max(axis=1)).all():
        # The likelihood then rises without end towards certainty, which a handful of images cannot vouch for.
        words = "temperature scaling left out: all validation images are right, so no temperature is the best"
        return Temperature(1.0, loss(0.0), loss(0.0), words)
    bound = float(np.log(_HOTTEST))
    found = optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    warning = ""
    if abs(found.x) > 0.99 * bound:
        warning = (
            "temperature scaling found no best value: the probabilities tell nothing about the labels of the "
            "validation images; do not trust calibrated probabilities"
        )
    return Temperature(float(np.exp(found.x)), loss(0.0), float(found.fun), warning)


def _gap(bins: ReliabilityBins) -> float:
    filled = bins.counts > 0
    gaps = np.abs(bins.accuracy[filled] - bins.confidence[filled])
    return float((gaps * bins.counts[filled]).sum() / bins.counts.sum())
