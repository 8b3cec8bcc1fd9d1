"""Predictions of a model for a set of images: the input of all metrics."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from covid_xray.errors import UserError
from covid_xray.files import original_text, read_bytes, spreadsheet_text

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PREFIX = "p_"
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Predictions:
    """Validated labels and probabilities of n images.

    Attributes:
        labels: True class of each image (n,), from 0 to c - 1. A class can have no image.
        probabilities: Probability of each class (n, c); each row sums to 1.
        class_names: The c class names, at least two.
        images: Unique key of each image (n,), its path.
        patients: Patient id of each image (n,); the bootstrap resamples patients.
    """

    labels: IntArray
    probabilities: FloatArray
    class_names: tuple[str, ...]
    images: tuple[str, ...]
    patients: tuple[str, ...]

    @classmethod
    def build(
        cls,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        class_names: Sequence[str],
        images: Sequence[str] | None = None,
        patients: Sequence[str] | None = None,
    ) -> "Predictions":
        """Create predictions from array-likes. Without ``patients``, each image counts as one patient.

        Raises:
            UserError: If lengths differ, a label is out of range, a row is not a probability distribution, or an image
                occurs twice.
        """
        truth = np.asarray(labels)
        if truth.ndim != 1 or (truth.size and not np.issubdtype(truth.dtype, np.integer)):
            raise UserError(f"labels must be a 1-D array of whole numbers, not shape {truth.shape} of {truth.dtype}")
        keys = tuple(f"image {i}" for i in range(len(truth))) if images is None else tuple(map(str, images))
        patient_ids = keys if patients is None else tuple(map(str, patients))
        values = np.asarray(probabilities, dtype=np.float64)
        return cls(truth.astype(np.int64), values, tuple(class_names), keys, patient_ids)

    def __post_init__(self) -> None:
        """Validate all fields."""
        n, c = len(self.labels), len(self.class_names)
        if n == 0:
            raise UserError("there are no predictions: the data set is empty")
        if c < 2 or len(set(self.class_names)) != c:
            raise UserError(f"class names must be at least two different names, not {list(self.class_names)}")
        if self.probabilities.shape != (n, c):
            raise UserError(
                f"probabilities have shape {self.probabilities.shape}; {n} labels of {c} classes need {(n, c)}"
            )
        if len(self.images) != n or len(self.patients) != n:
            raise UserError(
                f"labels, images and patients must have the same length, not {n}, {len(self.images)} and "
                f"{len(self.patients)}"
            )
        if len(set(self.images)) != n:
            images, counts = np.unique(self.images, return_counts=True)
            raise UserError(f"image {images[counts > 1][0]} has more than one prediction")
        if self.labels.min() < 0 or self.labels.max() >= c:
            raise UserError(
                f"labels range from {self.labels.min()} to {self.labels.max()}; {c} classes need 0 to {c - 1}"
            )
        bad = ~np.isfinite(self.probabilities).all(axis=1) | (self.probabilities < -1e-6).any(axis=1)
        bad |= ~(np.abs(self.probabilities.sum(axis=1) - 1) < 1e-3)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{int(bad.sum())} of {n} rows are not probabilities that sum to 1, first {self.images[row]}: "
                f"{self.probabilities[row].tolist()}"
            )

    @property
    def predicted(self) -> IntArray:
        """Most probable class of each image (n,); the first one if several are equal."""
        best: IntArray = np.argmax(self.probabilities, axis=1).astype(np.int64)
        return best

    @property
    def patient_index(self) -> IntArray:
        """Index of each image's patient (n,), from 0 to ``n_patients`` - 1."""
        index: IntArray = np.unique(self.patients, return_inverse=True)[1].astype(np.int64).reshape(-1)
        return index

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return len(set(self.patients))

    def describe(self, row: int) -> str:
        """True class of an image and, in a second line, its predicted class with the probability."""
        names, probability = self.class_names, 100 * self.probabilities[row].max()
        return f"{names[self.labels[row]]}\npredicted {names[self.predicted[row]]}, {probability:.0f} %"

    def select(self, rows: npt.ArrayLike) -> "Predictions":
        """Predictions of the given rows, in the given order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Predictions(
            self.labels[chosen],
            self.probabilities[chosen],
            self.class_names,
            tuple(self.images[i] for i in chosen),
            tuple(self.patients[i] for i in chosen),
        )

    def with_probabilities(self, probabilities: npt.ArrayLike) -> "Predictions":
        """The same images with new probabilities (n, c), for example after calibration."""
        values = np.asarray(probabilities, dtype=np.float64)
        return Predictions(self.labels, values, self.class_names, self.images, self.patients)


def pool_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Join the predictions of disjoint test sets, such as the folds of a cross-validation.

    Raises:
        UserError: If ``parts`` is empty, the classes differ, or an image occurs in two parts.
    """
    if not parts:
        raise UserError("there are no predictions to pool")
    if other := [part.class_names for part in parts if part.class_names != parts[0].class_names]:
        raise UserError(f"classes differ: {', '.join(parts[0].class_names)} and {', '.join(other[0])}")
    return Predictions(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        parts[0].class_names,
        tuple(image for part in parts for image in part.images),
        tuple(patient for part in parts for patient in part.patients),
    )


def average_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Mean of the probabilities of several models for the same images, in the order of the first.

    Raises:
        UserError: If ``parts`` is empty, or the classes, images, labels or patients differ.
    """
    if not parts:
        raise UserError("there are no predictions to average")
    first, aligned = parts[0], []
    for part in parts:
        if part.class_names != first.class_names:
            raise UserError(f"classes differ: {', '.join(first.class_names)} and {', '.join(part.class_names)}")
        rows = {image: row for row, image in enumerate(part.images)}
        if other := sorted(set(rows) ^ set(first.images)):
            raise UserError(f"{len(other)} images are not predicted by all models, such as {other[0]}")
        part = part.select([rows[image] for image in first.images])
        if part.patients != first.patients or not np.array_equal(part.labels, first.labels):
            raise UserError("an image has another label or patient in the predictions of another model")
        aligned.append(part.probabilities)
    return first.with_probabilities(np.mean(aligned, axis=0))


def write_predictions(predictions: Predictions, file: str | Path) -> None:
    """Write a CSV file with the columns path, patient, label, ``p_<class>`` for each class, and prediction.

    A spreadsheet runs no cell as a formula; `read_predictions` restores the texts.
    """
    names = np.array([spreadsheet_text(name) for name in predictions.class_names])
    texts = {"path": predictions.images, "patient": predictions.patients}
    table = pd.DataFrame({name: list(map(spreadsheet_text, column)) for name, column in texts.items()})
    table["label"] = names[predictions.labels]
    for index, name in enumerate(predictions.class_names):
        table[PREFIX + name] = predictions.probabilities[:, index]
    table["prediction"] = names[predictions.predicted]
    # 17 digits restore the same float64, so metrics computed from the file equal the reported ones.
    table.to_csv(file, index=False, float_format="%.17g")


def read_predictions(file: str | Path) -> Predictions:
    """Read a CSV file of `write_predictions`.

    Raises:
        UserError: If the file is missing or is not a table of predictions.
    """
    try:
        content = io.BytesIO(read_bytes(Path(file), _MAX_BYTES))
        # As text, because pandas 2 rounds the last bit of numbers.
        table = pd.read_csv(content, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as predictions: {' '.join(str(error).split())}") from None
    names = [column.removeprefix(PREFIX) for column in table.columns if column.startswith(PREFIX)]
    if missing := {"path", "patient", "label"} - set(table.columns):
        raise UserError(f"{file} has no column {sorted(missing)[0]}; it is not a table of predictions")
    for column in ("path", "patient", "label"):
        table[column] = table[column].map(original_text)
    if unknown := set(table["label"]) - set(names):
        raise UserError(f"{file}: label {sorted(unknown)[0]!r} has no column {PREFIX}{sorted(unknown)[0]}")
    try:
        labels = table["label"].map({name: index for index, name in enumerate(names)}).to_numpy(dtype=np.int64)
        probabilities = table[[PREFIX + name for name in names]].to_numpy(dtype=np.float64)
        return Predictions.build(labels, probabilities, names, list(table["path"]), list(table["patient"]))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{file}: {error}; evaluate the run again") from None
