"""The figures, the report and the numbers of a cross-validation: all folds together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covid_xray.metrics.estimates import Estimates
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import OVERALL
from covid_xray.reporting.evaluation_report import DISCRIMINATION, covid_class, draw_classification
from covid_xray.reporting.html import Picture, Report, Section
from covid_xray.reporting.tables import (
    Table,
    class_table,
    fold_values_table,
    metric_text,
    overall_table,
    published_table,
)
from covid_xray.runs import provenance

POOLED = "calibrated, all folds"
_KEY_METRICS = ("accuracy", "balanced_accuracy", "macro_auroc", "ece")


def draw_pooled(pooled: Predictions, estimates: Estimates) -> dict[str, Picture]:
    """All figures of a cross-validation, by the name of their file."""
    return draw_classification(pooled, estimates, {POOLED: (pooled, estimates.intervals["ece"])})


def pooled_report(
    path: Path,
    pooled: Predictions,
    estimates: Estimates,
    folds: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, Picture],
) -> Report:
    """The report of a cross-validation.

    Args:
        path: Folder of the runs.
        pooled: Test predictions of all folds.
        estimates: Their metrics.
        folds: From `covid_xray.metrics.estimates.fold_table`.
        found: Content of the ``metrics.json`` of every fold's evaluation, by name of the fold.
        pictures: From `draw_pooled`.
    """
    by_class = [f"sensitivity/{name}" for name in pooled.class_names]
    verdicts = tuple((fold, content["shortcuts"]["verdict"]) for fold, content in found.items())
    leaks = [f"{fold}: {text}" for fold, content in found.items() for text in content["leaks"]]
    data = f"{len(pooled.labels):,} images of {pooled.n_patients:,} patients, {len(found)} folds pooled"
    pooling = (
        "Pooled: every image once, predicted by the fold that did not train on it. The scores of different folds come "
        "from different networks, so a pooled AUROC is slightly too low; see also the mean over the folds."
    )
    published = published_table("This cross-validation", estimates, covid_class(pooled.class_names), data)
    return Report(
        title=f"Cross-validation {path.resolve().name}",
        subtitle=data,
        key_metrics={name.replace("_", " "): metric_text(name, estimates.intervals[name]) for name in _KEY_METRICS},
        warnings=[*leaks, *estimates.warnings],
        sections=[
            Section("By fold", tables=[fold_values_table(folds, [*OVERALL, *by_class])]),
            Section(
                "All folds together",
                [pooling],
                pictures=[pictures[name] for name in DISCRIMINATION],
                tables=[overall_table({"pooled": estimates}), class_table(estimates)],
            ),
            Section("Calibration", ["Each fold has its own temperature."], pictures=[pictures["reliability"]]),
            Section("Shortcut test", tables=[Table(("fold", "verdict"), verdicts)]),
            Section("Published results", tables=[published]),
        ],
        provenance=_provenance(found),
    )


def pooled_numbers(
    pooled: Predictions,
    estimates: Estimates,
    folds: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Content of ``metrics.json`` of a cross-validation; arguments as for `pooled_report`."""
    return {
        "images": len(pooled.labels),
        "classes": list(pooled.class_names),
        "pooled": estimates.to_dict(),
        "folds": {
            metric: {fold: None if np.isnan(value) else value for fold, value in row.items()}
            for metric, row in folds.items()
        },
        "verdicts": {fold: content["shortcuts"]["verdict"] for fold, content in found.items()},
        "leaks": {fold: content["leaks"] for fold, content in found.items()},
        "provenance": _provenance(found),
    }


def _provenance(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    checkpoints = {f"checkpoint, {fold}": content["provenance"]["checkpoint"] for fold, content in found.items()}
    return {
        "commit of this software": provenance.commit(),
        **checkpoints,
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }
