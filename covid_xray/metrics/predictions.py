"""What a model said about every image of a test set: the one table that all figures of merit start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from covid_xray.errors import UserError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PREFIX = "p_"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels and probabilities of n images, checked.

    Attributes:
        labels: True class of every image (n,), from 0 to c - 1. A class may have no image.
        probabilities: Probability of every class (n, c), rows summing to 1.
        class_names: The c names, at least two.
        images: Key of every image (n,), unique: its path.
        patients: Patient of every image (n,); intervals resample patients.
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
        """Make predictions from anything like arrays; without patients, every image is its own patient.

        Raises:
            UserError: If lengths disagree, a label is out of range, probabilities are no probabilities or an image is
                listed twice.
        """
        truth = np.asarray(labels)
        if truth.ndim != 1 or (truth.size and not np.issubdtype(truth.dtype, np.integer)):
            raise UserError(f"labels must be whole numbers in one row, not shape {truth.shape} of {truth.dtype}")
        keys = tuple(f"image {i}" for i in range(len(truth))) if images is None else tuple(map(str, images))
        people = keys if patients is None else tuple(map(str, patients))
        values = np.asarray(probabilities, dtype=np.float64)
        return cls(truth.astype(np.int64), values, tuple(class_names), keys, people)

    def __post_init__(self) -> None:
        """Check every value."""
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
                f"{n} labels, {len(self.images)} images and {len(self.patients)} patients do not fit together"
            )
        if len(set(self.images)) != n:
            twice = next(
                name for name, count in zip(*np.unique(self.images, return_counts=True), strict=True) if count > 1
            )
            raise UserError(f"image {twice} has more than one prediction")
        if self.labels.min() < 0 or self.labels.max() >= c:
            raise UserError(
                f"labels run from {self.labels.min()} to {self.labels.max()}; {c} classes allow 0 to {c - 1}"
            )
        bad = ~np.isfinite(self.probabilities).all(axis=1) | (self.probabilities < -1e-6).any(axis=1)
        bad |= ~(np.abs(self.probabilities.sum(axis=1) - 1) < 1e-3)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{int(bad.sum())} of {n} rows are no probabilities, first {self.images[row]}: "
                f"{self.probabilities[row].tolist()}"
            )

    @property
    def predicted(self) -> IntArray:
        """Most probable class of every image (n,); the first of equals."""
        best: IntArray = np.argmax(self.probabilities, axis=1).astype(np.int64)
        return best

    @property
    def patient_index(self) -> IntArray:
        """Number of every image's patient (n,), from 0."""
        index: IntArray = np.unique(self.patients, return_inverse=True)[1].astype(np.int64).reshape(-1)
        return index

    @property
    def n_patients(self) -> int:
        """How many patients there are."""
        return len(set(self.patients))

    def select(self, rows: npt.ArrayLike) -> "Predictions":
        """The predictions at these row numbers, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Predictions(
            self.labels[chosen],
            self.probabilities[chosen],
            self.class_names,
            tuple(self.images[i] for i in chosen),
            tuple(self.patients[i] for i in chosen),
        )

    def with_probabilities(self, probabilities: npt.ArrayLike) -> "Predictions":
        """The same images with other probabilities (n, c), as after calibration."""
        values = np.asarray(probabilities, dtype=np.float64)
        return Predictions(self.labels, values, self.class_names, self.images, self.patients)


def pool_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several disjoint test sets, as of the folds of a cross-validation, as one.

    Raises:
        UserError: If there are none, the classes differ, or an image occurs in two parts.
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


def write_predictions(predictions: Predictions, file: str | Path) -> None:
    """Write a CSV with path, patient, label, a column ``p_<class>`` per class, and prediction."""
    names = np.array(predictions.class_names)
    table = pd.DataFrame({"path": predictions.images, "patient": predictions.patients})
    table["label"] = names[predictions.labels]
    for index, name in enumerate(predictions.class_names):
        table[PREFIX + name] = predictions.probabilities[:, index]
    table["prediction"] = names[predictions.predicted]
    # 17 digits give the same float64 back, so that what is recomputed from the file equals what was reported.
    table.to_csv(file, index=False, float_format="%.17g")


def read_predictions(file: str | Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: Naming the file, if it is missing or is no table of predictions.
    """
    try:
        table = pd.read_csv(file, dtype={"path": str, "patient": str, "label": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as predictions: {error}") from None
    names = [column.removeprefix(PREFIX) for column in table.columns if column.startswith(PREFIX)]
    if missing := {"path", "patient", "label"} - set(table.columns):
        raise UserError(f"{file} has no column {sorted(missing)[0]}; it is no table of predictions")
    if unknown := set(table["label"]) - set(names):
        raise UserError(f"{file}: label {sorted(unknown)[0]!r} has no column {PREFIX}{sorted(unknown)[0]}")
    try:
        labels = table["label"].map({name: index for index, name in enumerate(names)}).to_numpy(dtype=np.int64)
        probabilities = table[[PREFIX + name for name in names]].to_numpy(dtype=np.float64)
        return Predictions.build(labels, probabilities, names, list(table["path"]), list(table["patient"]))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
