"""Compare evaluated runs image by image on the same test images: paired differences, McNemar, a table, a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.runs.load import check_name

if TYPE_CHECKING:
    from covid_xray.metrics.comparison import Comparison


def run(cfg: DictConfig) -> None:
    """Compare all runs with the first."""
    files = _check(cfg)
    from covid_xray.metrics.comparison import compare
    from covid_xray.metrics.predictions import read_predictions

    names = _names([Path(path) for path in cfg.runs])
    predictions = [read_predictions(file) for file in files]
    comparisons = [
        compare(predictions[0], other, (names[0], name), cfg.resamples, cfg.seed)
        for name, other in zip(names[1:], predictions[1:], strict=True)
    ]
    _write(cfg, comparisons)
    _show(comparisons)
    print(f"Report: {Path(cfg.output) / 'report.html'}\nResearch only: not for diagnosis.")


def _check(cfg: DictConfig) -> list[Path]:
    if OmegaConf.is_missing(cfg, "runs") or not OmegaConf.is_list(cfg.runs) or len(cfg.runs) < 2:
        raise UserError("runs must list at least two run folders: runs=[A,B]")
    for key, least in (("resamples", 1), ("seed", 0)):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < least:
            raise UserError(f"{key} must be a whole number of at least {least}, not {cfg[key]!r}")
    name, files = check_name(str(cfg.name)), []
    for path in map(Path, cfg.runs):
        if not path.is_dir():
            raise UserError(f"runs: {path} is no folder")
        file = path / "evaluation" / name / "predictions.csv"
        if not file.is_file():
            raise UserError(f"{path} has no evaluation {name!r}; run covid-xray evaluate run={path} first")
        files.append(file)
    return files


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("runs lists a run twice")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _write(cfg: DictConfig, comparisons: Sequence["Comparison"]) -> None:
    from covid_xray.plots.classification import figure_png
    from covid_xray.plots.evaluation import comparison_figure
    from covid_xray.reporting.html import Picture, Report, Section, render_report
    from covid_xray.reporting.tables import comparison_table
    from covid_xray.runs import provenance

    output, sections = Path(cfg.output), []
    origins = {
        "commit of this software": provenance.commit(),
        "runs": ", ".join(str(Path(path).resolve()) for path in cfg.runs),
        "evaluation": str(cfg.name),
        "bootstrap": f"{cfg.resamples} resamples of patients, seed {cfg.seed}",
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        for number, comparison in enumerate(comparisons, start=1):
            name = "comparison.png" if len(comparisons) == 1 else f"comparison-{number}.png"
            write_atomically(output / name, figure_png(comparison_figure(comparison)))
            title = " and ".join(comparison.names)
            picture: Picture = Picture(comparison_figure(comparison), f"Differences of {title}")
            sections.append(Section(title, pictures=[picture], tables=[comparison_table(comparison)]))
        report = Report(title="Paired comparison", sections=sections, provenance=origins)
        write_atomically(output / "comparison.csv", _csv(comparisons))
        write_atomically(output / "report.html", render_report(report))
        numbers = {"comparisons": [_numbers(comparison) for comparison in comparisons], "provenance": origins}
        write_atomically(output / "comparison.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror or error}") from None


def _numbers(comparison: "Comparison") -> dict[str, object]:
    from dataclasses import asdict

    from covid_xray.metrics.estimates import interval_dict

    return {
        "first": comparison.names[0],
        "second": comparison.names[1],
        "differences": {name: interval_dict(interval) for name, interval in comparison.differences.items()},
        "mcnemar": asdict(comparison.mcnemar),
    }


def _csv(comparisons: Sequence["Comparison"]) -> str:
    import pandas as pd

    rows = [
        (*comparison.names, name, comparison.a[name], comparison.b[name], interval.value, interval.low, interval.high)
        for comparison in comparisons
        for name, interval in comparison.differences.items()
    ]
    columns = ["first", "second", "metric", "value_first", "value_second", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False)


def _show(comparisons: Sequence["Comparison"]) -> None:
    from rich.console import Console
    from rich.table import Table

    from covid_xray.reporting.tables import comparison_table

    console = Console(highlight=False)
    for comparison in comparisons:
        content = comparison_table(comparison)
        table = Table(title=content.caption, title_justify="left")
        for column in content.header:
            table.add_column(column)
        for row in content.rows:
            table.add_row(*row)
        console.print(table)
        console.print(content.note, markup=False)
