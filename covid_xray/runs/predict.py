"""Predict the class of images: calibrated probabilities, out-of-distribution score and flags, row by row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from covid_xray.data.crop import FrameCrop, crop_image
from covid_xray.data.images.grey import GreyImage, ImageError
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError
from covid_xray.metrics.calibration import apply_shares, apply_temperature
from covid_xray.runs.calibration import Calibration, calibrate, ood_score
from covid_xray.runs.folder import is_number
from covid_xray.runs.images import crop_of_files, trained_shares
from covid_xray.runs.inference import FloatArray, infer_batch, read_ahead
from covid_xray.runs.load import Run

Sizes = dict[tuple[int, int], GreyImage]  # an image at each (first size, last size)
UNSURE, OUT_OF_DISTRIBUTION = "unsure", "unlike the training images"


@dataclass(frozen=True)
class Predictor:
    """A run, or several whose results are averaged, with their calibrations, ready to predict.

    Attributes:
        runs: The trained runs, of the same classes.
        calibrations: What the validation images gave, for each run; empty if a single run has none.
        no_calibration: Why there is no calibration.
        confidence: Predictions below this probability are flagged as unsure.
        crop: The frame that is cut off every image; None: the whole image.
        shares: Class shares of the population that the probabilities are for; None: those of the training images.
        trained_shares: Class shares that each run was trained with; empty without ``shares``.
    """

    runs: tuple[Run, ...]
    calibrations: tuple[Calibration, ...]
    no_calibration: str
    confidence: float
    crop: FrameCrop | None = None
    shares: tuple[float, ...] | None = None
    trained_shares: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def create(
        cls,
        runs: Run | Sequence[Run],
        confidence: float | None = None,
        shares: str | Mapping[str, float] | None = None,
    ) -> "Predictor":
        """Calibrate runs.

        Args:
            runs: The trained run, or several.
            confidence: Predictions below this probability are flagged; None: the limit from the validation images, the
                mean of all runs.
            shares: ``equal``, or the share of every class in the population that the probabilities are for; None:
                those of the training images. See `covid_xray.metrics.calibration.apply_shares`.

        Raises:
            UserError: If one of several runs cannot be calibrated, their classes differ, or the shares do not fit.
        """
        members = (runs,) if isinstance(runs, Run) else tuple(runs)
        check_same_classes(members)
        crops = [crop_of_files(run) for run in members]
        if any(crop != crops[0] for crop in crops):
            raise UserError("the runs of an ensemble must have the same crop; predict with each of them")
        found = [calibrate(run) for run in members]
        calibrations = tuple(calibration for calibration, _ in found if calibration is not None)
        reasons = [
            f"{run.folder.path}: {reason}" if len(members) > 1 else reason
            for run, (calibration, reason) in zip(members, found, strict=True)
            if calibration is None
        ]
        if reasons and len(members) > 1:
            raise UserError(f"an ensemble averages calibrated probabilities, but a run is not calibrated: {reasons[0]}")
        if confidence is None:
            limits = [calibration.confidence_limit for calibration in calibrations]
            confidence = float(np.mean(limits)) if limits else 0.0
        adjustment = () if shares is None else (_checked_shares(members[0].class_names, shares), _trained(members))
        return cls(members, calibrations, reasons[0] if reasons else "", confidence, crops[0], *adjustment)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values in a row."""
        chances = (f"p_{name}" for name in self.runs[0].class_names)
        return ("path", "prediction", "confidence", *chances, "ood_score", "flag", "error")

    @property
    def temperatures(self) -> tuple[float, ...]:
        """What the logits of each run are divided by; 1 without a calibration."""
        return tuple(calibration.temperature.value for calibration in self.calibrations) or (1.0,)

    def predict(
        self, files: Iterable[str], batch_size: int | None = None, threads: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield rows, a batch at a time, in the order of the files. A file that cannot be read gets an ``error``."""
        for names, images in read_ahead(self.read, files, batch_size or self.runs[0].batch_size, threads):
            yield self.rows(names, images)

    def read(self, file: str) -> Sizes | str:
        """An image at the size of each run, or why it cannot be read."""
        try:
            return self.resized(read_image(file))
        except ImageError as error:
            return error.reason
        except UserError as error:  # of a missing library
            return str(error)

    def resized(self, image: GreyImage) -> Sizes:
        """An image at every size that the runs need, with the same pixels as in training."""
        sizes = {(run.base_size, run.image_size) for run in self.runs}
        image = image if self.crop is None else crop_image(image, self.crop, {})
        return {size: resize(resize(image, size[0]), size[1]) for size in sizes}

    def rows(self, names: Sequence[str], images: Sequence[Sizes | str]) -> list[dict[str, Any]]:
        """Rows of images from `read`; a text in the place of an image is the reason why it could not be read."""
        good = [image for image in images if not isinstance(image, str)]
        found = iter(zip(*self._averages(good), strict=True)) if good else iter(())
        rows = []
        for name, image in zip(names, images, strict=True):
            row: dict[str, Any] = dict.fromkeys(self.columns) | {"path": name, "flag": "", "error": ""}
            rows.append(row | ({"error": image} if isinstance(image, str) else self._prediction(*next(found))))
        return rows

    def _averages(self, images: Sequence[Sizes]) -> tuple[FloatArray, FloatArray]:
        """Mean over the runs of the calibrated probabilities (n, c), and of the out-of-distribution score (n,)."""
        chances, scores = [], []
        for number, (run, temperature) in enumerate(zip(self.runs, self.temperatures, strict=True)):
            pixels = np.stack([image[run.base_size, run.image_size] for image in images])
            known = self.calibrations[number].features if self.calibrations else ""
            logits, features = infer_batch(run, torch.from_numpy(pixels).unsqueeze(1), bool(known))
            probabilities = apply_temperature(logits, temperature)
            if self.shares is not None:
                probabilities = apply_shares(probabilities, self.trained_shares[number], self.shares)
            chances.append(probabilities)
            scores.append(ood_score(logits, features, known))
        return np.mean(chances, axis=0), np.mean(scores, axis=0)

    def _prediction(self, chances: Any, score: Any) -> dict[str, Any]:
        names, best = self.runs[0].class_names, int(chances.argmax())
        unsure = chances.max() < self.confidence
        limits = [calibration.ood_limit for calibration in self.calibrations]
        unlike = bool(limits) and score > np.mean(limits)
        return {
            "prediction": names[best],
            "confidence": float(chances[best]),
            **{f"p_{name}": float(chance) for name, chance in zip(names, chances, strict=True)},
            "ood_score": float(score),
            "flag": "; ".join([UNSURE] * bool(unsure) + [OUT_OF_DISTRIBUTION] * bool(unlike)),
        }


def _trained(runs: Sequence[Run]) -> tuple[tuple[float, ...], ...]:
    """Class shares that each run was trained with."""
    found = [trained_shares(run) for run in runs]
    if None in found:
        raise UserError(
            f"shares needs the class shares that {runs[found.index(None)].folder.path} was trained with; the run does "
            "not state them, or its loss or sampler weights the classes: use shares=null"
        )
    return tuple(shares for shares in found if shares is not None)


def _checked_shares(names: Sequence[str], shares: str | Mapping[str, float]) -> tuple[float, ...]:
    """The shares as numbers, in the order of the logits."""
    if shares == "equal":
        return (1.0,) * len(names)
    if not isinstance(shares, Mapping) or shares.keys() != set(names):
        raise UserError(f"shares must be equal, or {{class: share}} with all of {', '.join(names)}, not {shares!r}")
    if wrong := [name for name in names if not is_number(shares[name]) or not 0 < shares[name] < 1]:
        raise UserError(f"shares.{wrong[0]} must be above 0 and below 1, not {shares[wrong[0]]!r}")
    return tuple(float(shares[name]) for name in names)


def check_same_classes(runs: Sequence[Run]) -> None:
    """Check that runs have the same classes.

    Raises:
        UserError: Naming the first run with other classes.
    """
    for run in runs[1:]:
        if run.class_names != runs[0].class_names:
            raise UserError(
                f"{run.folder.path} has the classes {', '.join(run.class_names)}, but {runs[0].folder.path} has "
                f"{', '.join(runs[0].class_names)}; an ensemble needs the same classes"
            )


def predict_images(
    runs: Run | Sequence[Run],
    images: Sequence[str | Path | np.ndarray[Any, Any]],
    confidence: float | None = None,
    shares: str | Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Predict image files or arrays.

    Args:
        runs: The trained run, or several whose calibrated probabilities are averaged.
        images: Paths, or grey images (height, width), uint8.
        confidence: Predictions below this probability are flagged as unsure; None: the limit from validation images.
        shares: Class shares of the population, as for `Predictor.create`.

    Returns:
        A row per image: ``path`` (of an array: its number), ``prediction``, ``confidence``, ``p_<class>``,
        ``ood_score``, ``flag`` and ``error``.

    Raises:
        UserError: If an array is no grey uint8 image.
    """
    predictor = Predictor.create(runs, confidence, shares)

    def pixels(number: int) -> Sizes | str:
        image = images[number]
        if not isinstance(image, np.ndarray):
            return predictor.read(str(image))
        if image.ndim != 2 or image.dtype != np.uint8:
            raise UserError(f"image {number} must be uint8 (height, width), not {image.dtype} of shape {image.shape}")
        return predictor.resized(image)

    names = [f"array {i}" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]
    rows = [
        row
        for numbers, read_images in read_ahead(pixels, range(len(images)), predictor.runs[0].batch_size)
        for row in predictor.rows([names[number] for number in numbers], read_images)
    ]
    return pd.DataFrame(rows, columns=list(predictor.columns))
