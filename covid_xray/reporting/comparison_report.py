"""The report of a paired comparison of runs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from covid_xray.files import spreadsheet_text, write_atomically
from covid_xray.metrics.comparison import Comparison
from covid_xray.metrics.estimates import interval_dict
from covid_xray.plots.evaluation import comparison_figure
from covid_xray.reporting.html import Picture, Report, Section, output_folder, write_report
from covid_xray.reporting.tables import comparison_table
from covid_xray.runs import provenance


def write_comparison(
    output: Path, comparisons: Sequence[Comparison], run_paths: Sequence[Path], name: str, resamples: int, seed: int
) -> None:
    """Write ``report.html``, ``comparison.json``, ``comparison.csv`` and a PNG file for every comparison.

    Args:
        output: Folder to write into.
        comparisons: Every further run against the first one.
        run_paths: Folders of the runs.
        name: Name of the evaluation that was compared.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        UserError: If the folder cannot be written.
    """
    origin = {
        "commit of this software": provenance.commit(),
        "runs": ", ".join(str(path.resolve()) for path in run_paths),
        "evaluation": name,
        "bootstrap": f"{resamples} resamples of patients, seed {seed}",
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }
    pictures, sections, plain = {}, [], []
    for number, comparison in enumerate(comparisons, start=1):
        title = " and ".join(comparison.names)
        picture = Picture(comparison_figure(comparison), f"Differences of {title}")
        pictures["comparison" if len(comparisons) == 1 else f"comparison-{number}"] = picture
        sections.append(Section(title, pictures=[picture], tables=[comparison_table(comparison)]))
        plain.append(
            {
                "first": comparison.names[0],
                "second": comparison.names[1],
                "differences": {metric: interval_dict(found) for metric, found in comparison.differences.items()},
                "mcnemar": asdict(comparison.mcnemar),
            }
        )
    report = Report("Paired comparison", sections=sections, provenance=origin)
    numbers = json.dumps({"comparisons": plain, "provenance": origin}, indent=2, allow_nan=False)
    with output_folder(output):
        write_report(output, report, pictures)
        write_atomically(output / "comparison.csv", _csv(comparisons))
        write_atomically(output / "comparison.json", f"{numbers}\n")


def _csv(comparisons: Sequence[Comparison]) -> str:
    rows = [
        (
            *map(spreadsheet_text, comparison.names),
            metric,
            comparison.a[metric],
            comparison.b[metric],
            found.value,
            found.low,
            found.high,
        )
        for comparison in comparisons
        for metric, found in comparison.differences.items()
    ]
    columns = ["first", "second", "metric", "value_first", "value_second", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False)
