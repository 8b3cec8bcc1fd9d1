"""Shortcut test: masked images, and a rule that decides whether the model needs the lungs."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import Interval, exact_interval

Images = npt.NDArray[np.uint8]
CENTRE = 0.75
BORDER = 0.125
# From experiments/verdict: thresholds chosen on the networks of one seed, errors counted on those of other seeds.
READS_SOURCE = 0.56
SUSPICIOUS = 0.4
WARNED, CLEARED = (14, 14), (23, 25)  # networks that lose at least a fifth of their skill, or less: right, and all
READ, NOT_READ = (12, 12), (26, 27)  # networks that lose at least half, or less, for the verdict "reads the source"
INSIDE = (13, 22)  # as WARNED, for marks that are in the lungs too


@dataclass(frozen=True)
class Verdict:
    """Result of the shortcut test.

    Attributes:
        text: The verdict in one or two sentences.
        rule: The rule that gives the verdict.
        kept: Share of the skill above chance that remains without the lungs; nan if the model has no skill.
        cheats: Whether the model uses information outside the lungs; None if the test gives no answer.
    """

    text: str
    rule: str
    kept: float
    cheats: bool | None


def blacken_centre(images: Images, share: float = CENTRE) -> Images:
    """Copy grey images (n, h, w) and set a centred rectangle to 0; ``share`` is its share of the height and width.

    The default removes lungs, heart and mediastinum. Shoulders, margins, markers and frame remain.

    Raises:
        UserError: If the images are not uint8 (n, h, w) or the share is not between 0 and 1.

    Source: Maguolo and Nanni 2021.
    """
    rows, columns = _rectangle(images, share)
    masked = images.copy()
    masked[:, rows, columns] = 0
    return masked


def fill_centre(images: Images, fill: str, share: float = CENTRE) -> Images:
    """Copy grey images (n, h, w) and replace the rectangle of `blacken_centre` by something less unusual than black.

    Args:
        images: Grey images (n, h, w), uint8.
        fill: ``mean`` (mean grey of the pixels outside the rectangle), ``noise`` (normal, with their mean and standard
            deviation, the same draws in every image) or ``blur`` (Gaussian, with an eighth of the width as standard
            deviation; large opacities of the lungs remain visible).
        share: See `blacken_centre`.

    Raises:
        UserError: If the images are not uint8 (n, h, w), the share is not between 0 and 1 or the fill is unknown.
    """
    rows, columns = _rectangle(images, share)
    if fill not in ("mean", "noise", "blur"):
        raise UserError(f"the fill of the centre must be mean, noise or blur, not {fill!r}")
    filled = images.copy()
    noise = np.random.default_rng(0).normal(size=images[0, rows, columns].shape) if fill == "noise" else 0.0
    outside = np.ones(images.shape[1:], dtype=bool)
    outside[rows, columns] = False
    for image, new in zip(images, filled, strict=True):
        if fill == "blur":
            new[rows, columns] = cv2.GaussianBlur(image, (0, 0), images.shape[2] / 8)[rows, columns]
        else:
            grey = image[outside].mean() + image[outside].std() * noise
            new[rows, columns] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return filled


def exchange_centre(images: Images, others: Images, share: float = CENTRE) -> Images:
    """Copy grey images (n, h, w) and replace the rectangle of `blacken_centre` by that of other images (n, h, w).

    With others at random, the centre says nothing about the class of the border, and the border nothing about the
    class of the centre. So the class that a model gives to the result shows which of the two it reads, and both parts
    are as in training, but for the seam.

    Raises:
        UserError: If the images are not uint8 (n, h, w) of one shape, or the share is not between 0 and 1.
    """
    rows, columns = _rectangle(images, share)
    if images.shape != others.shape:
        raise UserError(f"images of shape {images.shape} cannot get centres of images of shape {others.shape}")
    mixed = images.copy()
    mixed[:, rows, columns] = others[:, rows, columns]
    return mixed


def keep_centre(images: Images, share: float = CENTRE) -> Images:
    """Copy grey images (n, h, w) and set all pixels outside the rectangle of `blacken_centre` to 0.

    Raises:
        UserError: If the images are not uint8 (n, h, w) or the share is not between 0 and 1.
    """
    rows, columns = _rectangle(images, share)
    masked = np.zeros_like(images)
    masked[:, rows, columns] = images[:, rows, columns]
    return masked


def remove_border(images: Images, share: float = BORDER) -> Images:
    """Crop ``share`` of the height or width from each of the four sides: (n, h, w) to a smaller (n, h', w').

    Unlike `keep_centre`, it adds no black frame, which training images do not have. Resize the result to the input
    size of the model.

    Raises:
        UserError: If the images are not uint8 (n, h, w) or the share is not between 0 and 0.5.
    """
    if not 0 < share < 0.5:
        raise UserError(f"the share of the border must be between 0 and 0.5, not {share}")
    rows, columns = _rectangle(images, 1 - 2 * share)
    return np.ascontiguousarray(images[:, rows, columns])


def shortcut_verdict(
    whole: Interval, without_lungs: Interval, chance: float, auroc_whole: float, auroc_without_lungs: float
) -> Verdict:
    """Decide whether a model needs the lungs.

    Skill is the part of a metric above chance: balanced accuracy minus ``chance``, or macro AUROC minus 0.5. The share
    of the skill that remains with the centre blacked out is computed for both metrics, and the larger share is used:
    on blacked-out images a model can predict one class only, which lowers the accuracy but not the AUROC. Both
    thresholds come from networks with a known shortcut (``experiments/verdict``).

    Args:
        whole: Balanced accuracy on whole images, with its interval.
        without_lungs: Balanced accuracy with the centre blacked out.
        chance: Chance level of the balanced accuracy: 1 / number of classes in the test set.
        auroc_whole: Macro AUROC on whole images.
        auroc_without_lungs: Macro AUROC with the centre blacked out.
    """
    rule = (
        f"Rule: skill is balanced accuracy above chance ({100 * chance:.0f} %) or macro AUROC above 0.5. The larger "
        "remaining share of skill with the centre blacked out decides. "
        f"At least {100 * READS_SOURCE:.0f} %: the model reads the source. At least {100 * SUSPICIOUS:.0f} %: "
        "suspicious. Less: no sign of a shortcut. There is no verdict unless the lower limit of the balanced accuracy "
        f"on whole images is above chance. {error_rates()}"
    )
    if not whole.low > chance or np.isnan(without_lungs.value):
        text = "No verdict: on whole images the model is not significantly better than chance."
        return Verdict(text, rule, np.nan, None)
    shares = [(without_lungs.value - chance) / (whole.value - chance)]
    if auroc_whole > 0.5 and not np.isnan(auroc_without_lungs):
        shares.append((auroc_without_lungs - 0.5) / (auroc_whole - 0.5))
    kept = float(max(0.0, *shares)) if len(shares) > 1 else max(0.0, shares[0])
    found = f"{100 * without_lungs.value:.0f} % balanced accuracy"
    if not np.isnan(auroc_without_lungs):
        found += f" and an AUROC of {auroc_without_lungs:.2f}"
    found += f" without the lungs, {100 * whole.value:.0f} % with them"
    if kept >= READS_SOURCE:
        return Verdict(f"{found}: this model reads the source, not the disease.", rule, kept, True)
    if kept >= SUSPICIOUS:
        return Verdict(f"{found}: a part of this model's skill does not come from the lungs.", rule, kept, True)
    text = (
        f"{found}: no sign of a shortcut outside the lungs. This is not a proof: the test misses weak shortcuts and "
        "some marks that are also in the lungs, such as exposure, and the model was not trained on masked images. "
        "Train a model on borders (experiment=borders_only) to measure how much they reveal."
    )
    return Verdict(text, rule, kept, False)


def error_rates() -> str:
    """Sensitivity and specificity of the verdict on networks with a known shortcut, as sentences."""
    rates = [exact_interval(*counts).text(percent=True, digits=0) for counts in (WARNED, CLEARED, READ, NOT_READ)]
    return (
        f"On drawn chests with a known mark outside the lungs, it warned of {WARNED[0]} of {WARNED[1]} networks that "
        f"lost at least a fifth of their skill when the mark was random (sensitivity {rates[0]}), and of "
        f"{CLEARED[1] - CLEARED[0]} of {CLEARED[1]} that lost less (specificity {rates[1]}). The stronger verdict, "
        f"reads the source, was given to {READ[0]} of {READ[1]} networks that lost at least half (sensitivity "
        f"{rates[2]}), and to {NOT_READ[1] - NOT_READ[0]} of {NOT_READ[1]} others (specificity {rates[3]}). With marks "
        f"that are also in the lungs (exposure, resolution, aspect), it warned of {INSIDE[0]} of {INSIDE[1]} networks "
        "that lost at least a fifth."
    )


def _rectangle(images: Images, share: float) -> tuple[slice, slice]:
    if images.ndim != 3 or images.dtype != np.uint8:
        raise UserError(f"images must be uint8 (n, h, w), not {images.dtype} of shape {images.shape}")
    if not 0 < share < 1:
        raise UserError(f"the share of the centre must be between 0 and 1, not {share}")
    margins = [round(side * (1 - share) / 2) for side in images.shape[1:]]
    rows, columns = (slice(margin, side - margin) for margin, side in zip(margins, images.shape[1:], strict=True))
    return rows, columns
