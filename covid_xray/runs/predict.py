"""Predict the class of images: calibrated probabilities, out-of-distribution score and flags, row by row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from covid_xray.data.images.grey import GreyImage, ImageError
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError
from covid_xray.metrics.calibration import apply_temperature
from covid_xray.runs.calibration import Calibration, calibrate, ood_score
from covid_xray.runs.inference import image_reader, infer_batch, read_ahead
from covid_xray.runs.load import Run

UNSURE, OUT_OF_DISTRIBUTION = "unsure", "unlike the training images"


@dataclass(frozen=True)
class Predictor:
    """A run with its calibration, ready to predict.

    Attributes:
        run: The trained run.
        calibration: What the validation images gave, or None.
        no_calibration: Why there is no calibration.
        confidence: Predictions below this probability are flagged as unsure.
    """

    run: Run
    calibration: Calibration | None
    no_calibration: str
    confidence: float

    @classmethod
    def create(cls, run: Run, confidence: float | None = None) -> "Predictor":
        """Calibrate a run; ``confidence`` of None takes the limit from the validation images."""
        calibration, reason = calibrate(run)
        if confidence is None:
            confidence = 0.0 if calibration is None else calibration.confidence_limit
        return cls(run, calibration, reason, confidence)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values in a row."""
        chances = (f"p_{name}" for name in self.run.class_names)
        return ("path", "prediction", "confidence", *chances, "ood_score", "flag", "error")

    def predict(
        self, files: Iterable[str], batch_size: int | None = None, threads: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield rows, a batch at a time, in the order of the files. A file that cannot be read gets an ``error``."""
        read = _reading(image_reader(self.run))
        for names, images in read_ahead(read, files, batch_size or self.run.batch_size, threads):
            yield self.rows(names, images)

    def rows(self, names: Sequence[str], images: Sequence[GreyImage | str]) -> list[dict[str, Any]]:
        """Rows of images at the run's size; a text in the place of an image is the reason why it could not be read."""
        good = [image for image in images if not isinstance(image, str)]
        known, temperature = "", 1.0
        if self.calibration is not None:
            known, temperature = self.calibration.features, self.calibration.temperature.value
        logits, features = np.zeros((0, 2)), None
        if good:
            logits, features = infer_batch(self.run, torch.from_numpy(np.stack(good)).unsqueeze(1), bool(known))
        found = iter(zip(apply_temperature(logits, temperature), ood_score(logits, features, known), strict=True))
        rows = []
        for name, image in zip(names, images, strict=True):
            row: dict[str, Any] = dict.fromkeys(self.columns) | {"path": name, "flag": "", "error": ""}
            rows.append(row | ({"error": image} if isinstance(image, str) else self._prediction(*next(found))))
        return rows

    def _prediction(self, chances: Any, score: Any) -> dict[str, Any]:
        names, best = self.run.class_names, int(chances.argmax())
        unsure = chances.max() < self.confidence
        unlike = self.calibration is not None and score > self.calibration.ood_limit
        return {
            "prediction": names[best],
            "confidence": float(chances[best]),
            **{f"p_{name}": float(chance) for name, chance in zip(names, chances, strict=True)},
            "ood_score": float(score),
            "flag": "; ".join([UNSURE] * bool(unsure) + [OUT_OF_DISTRIBUTION] * bool(unlike)),
        }


def predict_images(
    run: Run, images: Sequence[str | Path | np.ndarray[Any, Any]], confidence: float | None = None
) -> pd.DataFrame:
    """Predict image files or arrays.

    Args:
        run: The trained run.
        images: Paths, or grey images (height, width), uint8.
        confidence: Predictions below this probability are flagged as unsure; None: the limit from validation images.

    Returns:
        A row per image: ``path`` (of an array: its number), ``prediction``, ``confidence``, ``p_<class>``,
        ``ood_score``, ``flag`` and ``error``.

    Raises:
        UserError: If an array is no grey uint8 image.
    """
    predictor = Predictor.create(run, confidence)
    read = _reading(image_reader(run))

    def pixels(number: int) -> GreyImage | str:
        image = images[number]
        if not isinstance(image, np.ndarray):
            return read(str(image))
        if image.ndim != 2 or image.dtype != np.uint8:
            raise UserError(f"image {number} must be uint8 (height, width), not {image.dtype} of shape {image.shape}")
        return resize(resize(image, run.base_size), run.image_size)

    names = [f"array {i}" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]
    rows = [
        row
        for numbers, read_images in read_ahead(pixels, range(len(images)), run.batch_size)
        for row in predictor.rows([names[number] for number in numbers], read_images)
    ]
    return pd.DataFrame(rows, columns=list(predictor.columns))


def _reading(read: Callable[[str], GreyImage]) -> Callable[[str], GreyImage | str]:
    """Read an image, or return the reason why it cannot be read."""

    def attempt(file: str) -> GreyImage | str:
        try:
            return read(file)
        except ImageError as error:
            return error.reason
        except UserError as error:  # of a missing library
            return str(error)

    return attempt
