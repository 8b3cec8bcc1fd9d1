"""The figures, the report and the numbers of several runs as one: folds pooled, an ensemble averaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covid_xray.metrics.intervals import exact_interval
from covid_xray.metrics.scores import LABELS, OVERALL
from covid_xray.reporting.evaluation_report import DISCRIMINATION, covid_class, draw_classification, leak_marks
from covid_xray.reporting.html import Mark, Picture, Report, Section
from covid_xray.reporting.tables import (
    Table,
    class_table,
    fold_values_table,
    metric_text,
    overall_table,
    published_table,
)
from covid_xray.runs import provenance
from covid_xray.runs.pooling import Combined

_KEY_METRICS = ("accuracy", "balanced_accuracy", "macro_auroc", "ece")
_AVERAGED = "The calibrated probabilities of {count} runs are averaged for every image."
_POOLED = (
    "Pooled: every image once, predicted by the fold that did not train on it. The scores of different folds come "
    "from different networks, so a pooled AUROC is slightly too low; see also the mean over the folds."
)


def variant(combined: Combined) -> str:
    """Name of the combined predictions in tables, such as ``calibrated, 5 folds pooled``."""
    return f"calibrated, {combined.text}"


def draw_pooled(combined: Combined) -> dict[str, Picture]:
    """All figures of several runs as one, by the name of their file."""
    pooled, estimates = combined.predictions, combined.estimates
    return draw_classification(pooled, estimates, {variant(combined): (pooled, estimates.intervals["ece"])})


def pooled_report(
    path: Path, combined: Combined, found: Mapping[str, Mapping[str, Any]], pictures: Mapping[str, Picture]
) -> Report:
    """The report of several runs as one.

    Args:
        path: Folder that the evaluation is written into.
        combined: The metrics.
        found: Content of the ``metrics.json`` of every member's evaluation, by name.
        pictures: From `draw_pooled`.
    """
    pooled, estimates = combined.predictions, combined.estimates
    by_class = [f"sensitivity/{name}" for name in pooled.class_names]
    verdicts = tuple((name, content["shortcuts"]["verdict"]) for name, content in found.items())
    leaks = [f"{name}: {text}" for name, content in found.items() for text in content["leaks"]]
    data = f"{len(pooled.labels):,} images of {pooled.n_patients:,} patients, {combined.text}"
    size = len(next(iter(combined.groups.values())))
    texts = [_AVERAGED.format(count=size)] * (size > 1) + [_POOLED] * combined.is_pooled
    kind = "Cross-validation" if combined.is_pooled else "Ensemble"
    alone = _source_only(found) if combined.is_pooled and size == 1 else "see the runs"
    published = published_table(f"This {kind.lower()}", estimates, covid_class(pooled.class_names), data, alone)
    each = "By fold" if combined.is_pooled else "Each run alone"
    return Report(
        title=f"{kind} {path.resolve().name}",
        subtitle=data,
        key_metrics={
            LABELS[name].partition(" (")[0]: metric_text(name, estimates.intervals[name]) for name in _KEY_METRICS
        },
        marks=[_verdict(found), *leak_marks(leaks)],
        warnings=estimates.warnings,
        sections=[
            Section(each, tables=[fold_values_table(combined.table, [*OVERALL, *by_class], each)]),
            Section(
                "All folds together" if combined.is_pooled else "All runs together",
                texts,
                pictures=[pictures[name] for name in DISCRIMINATION],
                tables=[overall_table({variant(combined): estimates}), class_table(estimates)],
            ),
            Section("Calibration", ["Each run has its own temperature."], pictures=[pictures["reliability"]]),
            Section("Shortcut test", tables=[Table(("run", "verdict"), verdicts)]),
            Section("Published results", tables=[published]),
        ],
        provenance=_provenance(found),
    )


def pooled_numbers(combined: Combined, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Content of ``metrics.json`` of several runs as one; arguments as for `pooled_report`."""
    return {
        "images": len(combined.predictions.labels),
        "classes": list(combined.predictions.class_names),
        "combination": combined.text,
        "members": {group: list(names) for group, names in combined.groups.items()},
        "pooled": combined.estimates.to_dict(),
        "folds": {
            metric: {name: None if np.isnan(value) else value for name, value in row.items()}
            for metric, row in combined.table.items()
        },
        "verdicts": {name: content["shortcuts"]["verdict"] for name, content in found.items()},
        "leaks": {name: content["leaks"] for name, content in found.items()},
        "provenance": _provenance(found),
    }


def _verdict(found: Mapping[str, Mapping[str, Any]]) -> Mark:
    """How many of the runs use a shortcut, for the head of the report."""
    cheats = [content["shortcuts"]["cheats"] for content in found.values()]
    text = f"{cheats.count(True)} of {len(cheats)} runs use information outside the lungs"
    unknown = f"; the test gives no answer for {cheats.count(None)}" if None in cheats else ""
    return Mark(
        "Verdict",
        f"{text}{unknown}. The shortcut test has the verdict on each.",
        True if True in cheats else None if None in cheats else False,
    )


def _source_only(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy of the source alone over all folds, each learned from the training images of its fold."""
    scores = [content["source_only"]["score"] for content in found.values() if content.get("source_only")]
    if len(scores) < len(found):
        return "no sources named"
    correct, total = (sum(score[key] for score in scores) for key in ("correct", "test_images"))
    return f"{exact_interval(correct, total).text(percent=True)}, {correct} of {total}"


def _provenance(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    checkpoints = {f"checkpoint, {name}": content["provenance"]["checkpoint"] for name, content in found.items()}
    return {
        "commit of this software": provenance.commit(),
        **checkpoints,
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }
