"""How well a classifier does that sees one factor of an image that is not medical, such as its source.

If it does well on the test images, the test set cannot show that a model reads the disease: a model that recognises
the source has the same score.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covid_xray.data.audit.associations import factors
from covid_xray.metrics.estimates import interval_dict, proportion_intervals
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import score

LEARNING = ("train", "val")


def source_only_scores(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Score of a classifier that sees one factor, for every factor; the best first.

    It learns from the training and validation images and is tested on the test images; see `predict_from_factor`.

    Args:
        table: Columns ``path``, ``label``, ``patient_id``, ``split`` and those of
            `covid_xray.data.audit.associations.factors`.

    Returns:
        A list of what `factor_score` returns; empty if there are no test images or none to learn from. Factors with
        one value only are left out.
    """
    learning, tested = table["split"].isin(LEARNING), table["split"] == "test"
    if not learning.any() or not tested.any() or table["label"].nunique() < 2:
        return []
    found = [
        factor_score(name, table[learning], values[learning], table[tested], values[tested])
        for name, values in factors(table).items()
        if values.nunique() > 1
    ]
    return sorted(found, key=lambda row: -row["balanced_accuracy"])


def factor_score(
    factor: str, learning: pd.DataFrame, known: pd.Series, tested: pd.DataFrame, values: pd.Series
) -> dict[str, Any]:
    """Score of a classifier that sees one factor of the images.

    Args:
        factor: Name of the factor.
        learning: Images to learn from: column ``label``.
        known: Value of the factor of each of them.
        tested: Test images: columns ``path``, ``label`` and ``patient_id``.
        values: Value of the factor of each of them.

    Returns:
        ``factor``, ``learned_from`` and ``test_images`` (numbers of images), ``new_values`` (test images with a value
        that no image to learn from has), ``accuracy`` (with exact limits, images clustered by patient), ``correct``,
        ``no_information_rate``, ``balanced_accuracy``, ``macro_auroc``, and by class ``sensitivity`` (with limits) and
        ``auroc``. Undefined values are None.
    """
    predictions = predict_from_factor(learning["label"], known, tested, values)
    metrics, intervals = score(predictions).values, proportion_intervals(predictions)
    names = predictions.class_names
    return {
        "factor": factor,
        "learned_from": len(learning),
        "test_images": len(tested),
        "new_values": int((~values.isin(known)).sum()),
        "correct": int((predictions.predicted == predictions.labels).sum()),
        "accuracy": interval_dict(intervals["accuracy"]),
        **{key: _plain(metrics[key]) for key in ("no_information_rate", "balanced_accuracy", "macro_auroc")},
        "sensitivity": {name: interval_dict(intervals[f"sensitivity/{name}"]) for name in names},
        "auroc": {name: _plain(metrics[f"auroc/{name}"]) for name in names},
    }


def predict_from_factor(
    labels: pd.Series, known: pd.Series, tested: pd.DataFrame, values: pd.Series, classes: Sequence[str] | None = None
) -> Predictions:
    """Predict the class of test images from one factor: a table of class shares by value.

    The probability of a class is (images of the class with this value + 1) / (images with this value + number of
    classes): Laplace's rule of succession, 1774. An image with a value that was not learned gets the shares of the
    classes among all images, by the same rule.

    Args:
        labels: Class of each image to learn from.
        known: Value of the factor of each of them.
        tested: Test images: columns ``path``, ``label`` and ``patient_id``.
        values: Value of the factor of each of them.
        classes: The classes in order; None: those of all images, sorted.
    """
    names = sorted({*labels, *tested["label"]}) if classes is None else list(classes)
    counts = pd.crosstab(np.asarray(known, dtype=object), np.asarray(labels, dtype=object))
    counts = counts.reindex(columns=names, fill_value=0)
    rows = counts.index.get_indexer(pd.Index(np.asarray(values, dtype=object)))
    seen = counts.to_numpy(dtype=np.float64)
    shares = _shares(np.vstack([seen, seen.sum(axis=0)]))  # row -1, of unknown values, is the last
    truth = tested["label"].map({name: number for number, name in enumerate(names)}).to_numpy(dtype=np.int64)
    return Predictions.build(truth, shares[rows], names, tested["path"].tolist(), tested["patient_id"].tolist())


def _shares(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = (counts + 1) / (counts.sum(axis=1, keepdims=True) + counts.shape[1])
    return found


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
