"""The report of a ranking of encoders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from covid_xray.files import atomic_write, spreadsheet_text, write_atomically
from covid_xray.metrics.estimates import interval_dict
from covid_xray.metrics.predictions import write_predictions
from covid_xray.metrics.scores import LABELS
from covid_xray.plots.ranking import ranking_figure
from covid_xray.reporting.html import Picture, Report, Section, output_folder, write_report
from covid_xray.reporting.tables import Table, metric_text
from covid_xray.runs import provenance
from covid_xray.runs.folder import PREDICTIONS_FILE, RunFolder, check_name
from covid_xray.runs.probe import EncoderProbe

_SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "nll")


def probe_table(results: Sequence[EncoderProbe], metric: str) -> Table:
    """A row per encoder, best first."""
    names = list(dict.fromkeys([metric, *_SHOWN]))
    rows = tuple(
        (
            result.name,
            f"{result.dimensions:,}",
            *(metric_text(name, result.estimates.intervals[name]) for name in names),
            "" if result.difference is None else metric_text(metric, result.difference),
        )
        for result in results
    )
    header = ("encoder", "features", *(LABELS[name] for name in names), f"{LABELS[metric]} minus the best")
    return Table(
        header,
        rows,
        "Linear probes of frozen features, with 95 % intervals",
        "Logistic regression on standardised features, cross-validated by patient; C by an inner cross-validation. The "
        "intervals describe the test images, not the choice of the folds.",
    )


def write_probe(output: Path, results: Sequence[EncoderProbe], metric: str, settings: Mapping[str, Any]) -> None:
    """Write ``report.html``, ``probe.json``, ``probe.csv``, ``ranking.png`` and the predictions of every encoder.

    The predictions are in ``ENCODER/evaluation/test``, as those of runs, so that ``compare`` reads them.

    Args:
        output: Folder to write into.
        results: From `covid_xray.runs.probe.probe`.
        metric: The metric that they are ranked by.
        settings: Settings of the probe, for the provenance.

    Raises:
        UserError: If the folder cannot be written, or a name is no name of a folder.
    """
    intervals = {result.name: result.estimates.intervals[metric] for result in results}
    picture = Picture(ranking_figure(intervals, LABELS[metric]), "Encoders, best first")
    origin = {
        "commit of this software": provenance.commit(),
        **{key: str(value) for key, value in settings.items()},
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }
    first = results[0].predictions
    report = Report(
        "Linear probes",
        f"{len(first.labels):,} images of {first.n_patients:,} patients",
        sections=[
            Section("Ranking", pictures=[picture], tables=[probe_table(results, metric)]),
            Section("Encoders", tables=[Table(("name", "made by"), tuple((r.name, r.encoder) for r in results))]),
        ],
        provenance=origin,
    )
    content = {
        "metric": metric,
        "images": len(first.labels),
        "patients": first.n_patients,
        "encoders": [
            {
                "name": result.name,
                "encoder": result.encoder,
                "features": result.dimensions,
                "penalties": list(result.penalties),
                "difference": None if result.difference is None else interval_dict(result.difference),
                **result.estimates.to_dict(),
            }
            for result in results
        ],
        "provenance": origin,
    }
    with output_folder(output):
        for result in results:
            folder = RunFolder(output / check_name(result.name)).evaluation("test")
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder / PREDICTIONS_FILE) as draft:
                write_predictions(result.predictions, draft)
        write_report(output, report, {"ranking": picture})
        write_atomically(output / "probe.csv", _csv(results))
        write_atomically(output / "probe.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


def _csv(results: Sequence[EncoderProbe]) -> str:
    rows = [
        (spreadsheet_text(result.name), result.dimensions, name, found.value, found.low, found.high)
        for result in results
        for name, found in result.estimates.intervals.items()
    ]
    return pd.DataFrame(rows, columns=["encoder", "features", "metric", "value", "low", "high"]).to_csv(index=False)
