"""What is learnt on a run's validation images and stored with it: temperature, thresholds, what looks unfamiliar."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.metrics.calibration import Temperature, apply_temperature, fit_temperature
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import OperatingPoint, choose_operating_point

if TYPE_CHECKING:
    import pandas as pd

    from covid_xray.runs.load import Run

FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class Calibration:
    """What the validation images taught.

    Attributes:
        checkpoint_sha256: SHA-256 of the checkpoint that it belongs to.
        images: Number of validation images.
        temperature: What logits are divided by.
        ood_limit: Value of `ood_score` above which an image counts as unlike the training images.
        features: Mean and spread of the validation images' features, float32 in base64; empty if there are none.
        confidence_limit: Calibrated probability of the predicted class below which an answer counts as unsure.
        points: Operating points of every class.
        warnings: What could not be learnt, in words.
    """

    checkpoint_sha256: str
    images: int
    temperature: Temperature
    ood_limit: float
    features: str
    confidence_limit: float
    points: tuple[OperatingPoint, ...]
    warnings: tuple[str, ...]


def ood_score(logits: FloatArray, features: Features | None, known: str) -> FloatArray:
    """How unlike the validation images every image is (n,).

    With features, their distance from the mean, in standard deviations, as root mean square over the features: noise
    and other things that are no X-rays lie far off. Without, the energy of the logits (Liu et al. 2020), which is high
    where no class is spoken for; it does not notice noise.

    Args:
        logits: Of every image (n, c).
        features: Of every image (n, d), or None.
        known: `Calibration.features`; empty for the energy.
    """
    if features is None or not known:
        from scipy import special

        energy: FloatArray = -special.logsumexp(logits, axis=1)
        return energy
    centre, spread = np.frombuffer(base64.b64decode(known), dtype="<f4").reshape(2, -1).astype(np.float64)
    distance: FloatArray = np.sqrt((((features - centre) / spread) ** 2).mean(axis=1))
    return distance


def learn(
    labels: Sequence[int],
    logits: FloatArray,
    features: Features | None,
    class_names: Sequence[str],
    checkpoint_sha256: str,
) -> Calibration:
    """Learn everything that validation images may teach; `FALSE_ALARMS` of them lie beyond either limit."""
    temperature = fit_temperature(labels, logits)
    probabilities = apply_temperature(logits, temperature.value)
    validation = Predictions.build(labels, probabilities, class_names)
    points, warnings = [], [temperature.warning] if temperature.warning else []
    for name in class_names:
        try:
            points += [choose_operating_point(validation, name, rule) for rule in ("youden", "sensitivity")]
        except UserError as error:
            warnings.append(str(error))
    known = "" if features is None else _summary(features)
    return Calibration(
        checkpoint_sha256,
        len(labels),
        temperature,
        float(np.quantile(ood_score(logits, features, known), 1 - FALSE_ALARMS)),
        known,
        float(np.quantile(probabilities.max(axis=1), FALSE_ALARMS)),
        tuple(points),
        tuple(warnings),
    )


def calibration_of(
    run: "Run", records: "pd.DataFrame | None", workers: int | None = None
) -> tuple[Calibration | None, str]:
    """The stored calibration, or one learnt now and stored; or None, with the reason in words.

    Args:
        run: The trained run.
        records: The run's own data with its files, or None where it cannot be had.
        workers: Loader processes.
    """
    file = run.folder.path / "calibration.json"
    stored = _read(file)
    found = stored.get(run.checkpoint)
    # One of another version of this software is made anew.
    names = {field.name for field in fields(Calibration)}
    if isinstance(found, dict) and set(found) == names and found["checkpoint_sha256"] == run.checkpoint_sha256:
        return _from_dict(found, file), ""
    if records is None:
        return None, "the run's validation images are not here, so nothing could be calibrated"
    from covid_xray.runs.images import own_images
    from covid_xray.runs.inference import WHOLE, infer

    try:
        table = own_images(run.splits, records, "val")
    except UserError as error:
        return None, str(error)
    numbers = {name: number for number, name in enumerate(run.class_names)}
    files, labels = list(table["file"]), [numbers[label] for label in table["label"]]
    outputs = infer(run, files, feature_rows=range(len(files)), workers=workers, what="Validation images")
    learnt = learn(labels, outputs.logits[WHOLE], outputs.features, run.class_names, run.checkpoint_sha256)
    write_atomically(file, json.dumps(stored | {run.checkpoint: asdict(learnt)}, indent=2) + "\n")
    return learnt, ""


def _summary(features: Features) -> str:
    # A feature that never varied would count without end where it varies by a hair.
    spread = np.maximum(features.std(axis=0), 1e-3 * max(float(features.std()), 1e-6))
    return base64.b64encode(np.stack([features.mean(axis=0), spread]).astype("<f4").tobytes()).decode("ascii")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); remove it, and it is made anew") from None
    if not isinstance(stored, dict):
        raise UserError(f"{file} is damaged; remove it, and it is made anew")
    return stored


def _from_dict(found: dict[str, Any], file: Path) -> Calibration:
    try:
        return Calibration(
            **found
            | {
                "temperature": Temperature(**found["temperature"]),
                "points": tuple(OperatingPoint(**point) for point in found["points"]),
                "warnings": tuple(found["warnings"]),
            }
        )
    except (TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it, and it is made anew") from None
