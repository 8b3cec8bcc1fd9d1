"""Calibration on a run's validation images: temperature, operating points, out-of-distribution limit."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from covid_xray.errors import UserError, printable
from covid_xray.files import write_atomically
from covid_xray.metrics.calibration import Temperature, apply_temperature, fit_temperature
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import OperatingPoint, choose_operating_point
from covid_xray.runs.folder import damaged, is_number, read_json
from covid_xray.runs.images import own_images, own_records
from covid_xray.runs.inference import WHOLE, infer
from covid_xray.runs.load import Run

FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class Calibration:
    """What the validation images gave.

    Attributes:
        checkpoint_sha256: SHA-256 of the checkpoint that it belongs to.
        images: Number of validation images.
        temperature: What logits are divided by.
        ood_limit: Limit of `ood_score`; an image above it is flagged as unlike the training images.
        features: Mean and spread of the validation images' features, float32 in base64; empty if there are none.
        confidence_limit: Limit of the calibrated probability of the predicted class; a prediction below it is flagged
            as unsure.
        points: Operating points of every class.
        warnings: One sentence for each value that could not be found.
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
    """Out-of-distribution score of every image (n,): high for images unlike the validation images.

    With features, the distance from their mean, in standard deviations, as root mean square over the features; noise
    and images that are no X-rays have a high score. Without features, the energy of the logits (Liu et al. 2020), which
    is high if no class has a high logit; it does not detect noise.

    Args:
        logits: Of every image (n, c).
        features: Of every image (n, d), or None.
        known: `Calibration.features`; empty for the energy.
    """
    if features is None or not known:
        energy: FloatArray = -special.logsumexp(logits, axis=1)
        return energy
    centre, spread = _known(known).astype(np.float64)
    if len(centre) != features.shape[1]:
        raise UserError(
            f"calibration.json of the run has {len(centre)} features, the network {features.shape[1]}; remove that file"
        )
    distance: FloatArray = np.sqrt((((features - centre) / spread) ** 2).mean(axis=1))
    return distance


def learn(
    labels: Sequence[int],
    logits: FloatArray,
    features: Features | None,
    class_names: Sequence[str],
    checkpoint_sha256: str,
) -> Calibration:
    """Fit everything on validation images; a share of `FALSE_ALARMS` of them is beyond each limit."""
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


def calibrate(
    run: Run, records: pd.DataFrame | None = None, threads: int | None = None
) -> tuple[Calibration | None, str]:
    """The stored calibration of a run, or a new one from its validation images, which is stored.

    Args:
        run: The trained run.
        records: The run's own data; None: read it as the run's configuration says.
        threads: Threads that read images.

    Returns:
        The calibration, or None and the reason why there is none.
    """
    file = run.folder.calibration
    stored, broken = {}, None
    try:
        stored = read_json(file)
        found = stored.get(run.checkpoint)
        if isinstance(found, dict) and found.get("checkpoint_sha256") == run.checkpoint_sha256:
            return _from_dict(found, run.class_names, file), ""
    except UserError as error:
        broken = error
    try:
        table = own_images(run, own_records(run) if records is None else records, "val")
    except UserError as error:
        if broken is not None:
            raise broken from None
        return None, str(error)
    if broken is not None:
        print(f"{file} is damaged, and is made again")
    numbers = {name: number for number, name in enumerate(run.class_names)}
    files, labels = list(table["file"]), [numbers[label] for label in table["label"]]
    outputs = infer(run, files, feature_rows=range(len(files)), threads=threads, what="Validation images")
    new = learn(labels, outputs.logits[WHOLE], outputs.features, run.class_names, run.checkpoint_sha256)
    if run.folded or run.session is not None:  # what is stored is exact
        return new, ""
    try:
        write_atomically(file, json.dumps(stored | {run.checkpoint: asdict(new)}, indent=2) + "\n")
    except UserError as error:  # a run may be read-only
        print(f"The calibration is not stored, and is made again each time: {printable(str(error))}")
    return new, ""


def _summary(features: Features) -> str:
    # A feature that is constant on the validation images would dominate the distance.
    spread = np.maximum(features.std(axis=0), 1e-3 * max(float(features.std()), 1e-6))
    return base64.b64encode(np.stack([features.mean(axis=0), spread]).astype("<f4").tobytes()).decode("ascii")


def _known(features: str) -> Features:
    """Mean and spread (2, d) of `Calibration.features`.

    Raises:
        ValueError: If the text is damaged.
    """
    known = np.frombuffer(base64.b64decode(features, validate=True), dtype="<f4").reshape(2, -1)
    if not np.isfinite(known).all() or not (known[1] > 0).all():
        raise ValueError("features are not finite, or have no spread")
    return known


def _from_dict(found: dict[str, Any], class_names: Sequence[str], file: Path) -> Calibration:
    try:
        temperature = Temperature(**found["temperature"])
        points = tuple(OperatingPoint(**point) for point in found["points"])
        texts = (found["features"], temperature.warning, *(point.rule for point in points), *found["warnings"])
        values = [found["images"], found["ood_limit"], found["confidence_limit"]]
        values += [temperature.value, temperature.nll_before, temperature.nll_after]
        values += [value for point in points for value in (point.threshold, point.sensitivity, point.specificity)]
        sound = all(map(is_number, values)) and 1e-3 <= temperature.value <= 1e3
        if not (sound and all(isinstance(text, str) for text in texts)):
            raise ValueError("a value is not a number or text, or out of range")
        if unknown := [point.class_name for point in points if point.class_name not in class_names]:
            raise ValueError(f"{unknown[0]!r} is no class of the run")
        if found["features"]:
            _known(found["features"])
        changes = {"temperature": temperature, "points": points, "warnings": tuple(found["warnings"])}
        return Calibration(**found | changes)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}") from None
