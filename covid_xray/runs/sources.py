"""What the sources of the images say about a test: the score of the source alone, and metrics of each source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from covid_xray.data.audit.report import source_only_text
from covid_xray.data.audit.source_only import LEARNING, factor_score, predict_from_factor
from covid_xray.data.audit.sources import confounding_text
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import interval_dict
from covid_xray.metrics.groups import SOURCE_METRICS
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import Predictions


@dataclass(frozen=True, eq=False)
class SourceOnly:
    """A classifier that sees only the source, beside the model, on the same test images.

    Attributes:
        score: See `covid_xray.data.audit.source_only.factor_score`.
        differences: Model minus that classifier, with a paired interval, by metric.
        text: Both in sentences.
    """

    score: Mapping[str, Any]
    differences: Mapping[str, Interval]
    text: str

    def accuracy(self) -> str:
        """The accuracy of the source alone, with its interval and counts."""
        found = Interval(**{key: self.score["accuracy"][key] for key in ("value", "low", "high")})
        return f"{found.text(percent=True)}, {self.score['correct']} of {self.score['test_images']}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain types for ``metrics.json``."""
        differences = {name: interval_dict(interval) for name, interval in self.differences.items()}
        return {"score": dict(self.score), "model_minus_source_only": differences, "text": self.text}


def source_only(
    splits: pd.DataFrame, tested: pd.DataFrame, predictions: Predictions, resamples: int, seed: int
) -> SourceOnly | None:
    """Learn the label from the source of the training and validation images, and test it on the test images.

    Args:
        splits: The run's ``splits.csv``.
        tested: The test images: path, label, patient_id and source.
        predictions: The model's predictions of the test images.
        resamples: Resamples of the bootstrap of the differences.
        seed: Seed of the bootstrap.

    Returns:
        The result; None if the training or the test images name no source.
    """
    learned = splits[splits["split"].isin(LEARNING)] if len(splits) else splits
    if learned.empty or not (learned["source"] != "").any() or not (tested["source"] != "").any():
        return None
    known, values = (table["source"].replace("", "unknown") for table in (learned, tested))
    alone = predict_from_factor(learned["label"], known, tested, values, predictions.class_names)
    score = factor_score("source", learned, known, tested, values)
    paired = compare(alone, predictions, ("source", "model"), resamples, seed).differences
    differences = {name: paired[name] for name in SOURCE_METRICS}
    if score["new_values"] == len(tested):
        text = "No test image comes from a source of the training images, so the source alone predicts nothing here."
    else:
        text = (
            f"Learned from the training and validation images, {source_only_text(score)}. This model minus that "
            f"classifier: accuracy {differences['accuracy'].text(percent=True)}, macro AUROC "
            f"{differences['macro_auroc'].text()}."
        )
    confounding = confounding_text(learned["label"].tolist(), known.tolist())
    return SourceOnly(score, differences, f"{text} {'In training: ' * bool(confounding)}{confounding}".strip())
