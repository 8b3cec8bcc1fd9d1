"""Does the model cheat: pictures without lungs, and a verdict in words with its rule."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import Interval

Images = npt.NDArray[np.uint8]
CENTRE = 0.75
BORDER = 0.125
READS_SOURCE = 0.5
SUSPICIOUS = 0.2


@dataclass(frozen=True)
class Verdict:
    """What the shortcut battery says.

    Attributes:
        text: The verdict, a sentence or two.
        rule: The rule that it follows from.
        kept: Share of the skill above chance that is left without the lungs; nan where there is no skill to lose.
        cheats: Whether the model reads what is not the disease; None where the battery cannot tell.
    """

    text: str
    rule: str
    kept: float
    cheats: bool | None


def blacken_centre(images: Images, share: float = CENTRE) -> Images:
    """Copy of grey images (n, h, w) with a centred rectangle of ``share`` of either side set to 0.

    With the default, lungs, heart and mediastinum are gone; shoulders, margins, markers and frame stay.

    Raises:
        UserError: If the images are not uint8 (n, h, w) or the share is out of (0, 1).

    Source: Maguolo and Nanni 2021.
    """
    rows, columns = _rectangle(images, share)
    masked = images.copy()
    masked[:, rows, columns] = 0
    return masked


def keep_centre(images: Images, share: float = CENTRE) -> Images:
    """Copy of grey images (n, h, w) with everything but a centred rectangle of ``share`` of either side set to 0.

    Raises:
        UserError: If the images are not uint8 (n, h, w) or the share is out of (0, 1).
    """
    rows, columns = _rectangle(images, share)
    masked = np.zeros_like(images)
    masked[:, rows, columns] = images[:, rows, columns]
    return masked


def remove_border(images: Images, share: float = BORDER) -> Images:
    """Cut ``share`` of the height and width off each of the four sides: (n, h, w) to a smaller (n, h', w').

    Unlike `keep_centre`, it leaves no black frame, which no training image has; resize the result to the model's size.

    Raises:
        UserError: If the images are not uint8 (n, h, w) or the share is out of (0, 0.5).
    """
    if not 0 < share < 0.5:
        raise UserError(f"the border's share must lie between 0 and 0.5, not {share}")
    rows, columns = _rectangle(images, 1 - 2 * share)
    return np.ascontiguousarray(images[:, rows, columns])


def shortcut_verdict(
    whole: Interval, without_lungs: Interval, chance: float, auroc_whole: float, auroc_without_lungs: float
) -> Verdict:
    """Say in words whether a model needs the lungs.

    Skill is what lies above chance: balanced accuracy above ``chance``, macro AUROC above 0.5. The share of skill that
    is left with the centre blacked out is taken for both, and the larger counts: a blacked-out picture may push every
    answer to one class, which ruins the accuracy but not the order of the scores.

    Args:
        whole: Balanced accuracy on whole images.
        without_lungs: Balanced accuracy with the centre blacked out, with its interval.
        chance: Balanced accuracy of guessing: 1 / number of classes that occur.
        auroc_whole: Macro AUROC on whole images.
        auroc_without_lungs: Macro AUROC with the centre blacked out.
    """
    rule = (
        f"Rule: skill is balanced accuracy above chance ({100 * chance:.0f} %) or macro AUROC above 0.5, whichever "
        f"survives better with the centre blacked out. At least {100 * READS_SOURCE:.0f} % of it left: reads the "
        f"source. At least {100 * SUSPICIOUS:.0f} %: suspicious. Less: no sign of a shortcut. A verdict needs a lower "
        "limit of the balanced accuracy above chance on whole images."
    )
    if not whole.low > chance or np.isnan(without_lungs.value):
        text = "No verdict: the model is not surely better than chance on whole images, so there is nothing to lose."
        return Verdict(text, rule, np.nan, None)
    shares = [(without_lungs.value - chance) / (whole.value - chance)]
    if auroc_whole > 0.5 and not np.isnan(auroc_without_lungs):
        shares.append((auroc_without_lungs - 0.5) / (auroc_whole - 0.5))
    kept = float(max(0.0, *shares)) if len(shares) > 1 else max(0.0, shares[0])
    seen = f"{100 * without_lungs.value:.0f} % balanced accuracy"
    if not np.isnan(auroc_without_lungs):
        seen += f" and an AUROC of {auroc_without_lungs:.2f}"
    seen += f" without the lungs, {100 * whole.value:.0f} % with them"
    if kept >= READS_SOURCE:
        return Verdict(f"{seen}: this model reads the source, not the disease.", rule, kept, True)
    if kept >= SUSPICIOUS:
        return Verdict(f"{seen}: a part of what this model knows does not come from the lungs.", rule, kept, True)
    text = (
        f"{seen}: no sign that this model can do without the lungs. That is no proof: it never saw such pictures; "
        "only a model trained on borders (experiment=borders_only) shows what they hold."
    )
    return Verdict(text, rule, kept, False)


def _rectangle(images: Images, share: float) -> tuple[slice, slice]:
    if images.ndim != 3 or images.dtype != np.uint8:
        raise UserError(f"images must be uint8 (n, h, w), not {images.dtype} of shape {images.shape}")
    if not 0 < share < 1:
        raise UserError(f"the centre's share must lie between 0 and 1, not {share}")
    margins = [round(side * (1 - share) / 2) for side in images.shape[1:]]
    rows, columns = (slice(margin, side - margin) for margin, side in zip(margins, images.shape[1:], strict=True))
    return rows, columns
