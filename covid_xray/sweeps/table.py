"""The table of a sweep, in the terminal and as CSV."""

import contextlib
import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covid_xray.errors import UserError, printable
from covid_xray.files import spreadsheet_text, write_atomically
from covid_xray.sweeps.jobs import SweepRun, read_sweep
from covid_xray.sweeps.names import PHASES

if TYPE_CHECKING:
    from rich.table import Table


def report_jobs(folder: Path, objective: str, planned: int) -> int:
    """Print the table of a sweep that ended, write it as ``sweep.csv``, and print why jobs failed.

    Args:
        folder: The sweep's folder.
        objective: The metric that the sweep optimizes or compares.
        planned: Number of planned jobs; 0 if the sweeper chooses them while it runs.

    Returns:
        Number of failed jobs.
    """
    from rich.console import Console

    try:
        runs = read_sweep(folder)
    except UserError:  # no job started
        return 0
    runs = runs[: planned or None]  # others come from earlier commands
    write_atomically(folder / "sweep.csv", sweep_csv(runs, objective))
    Console(highlight=False, markup=False).print(sweep_table(runs, objective))
    print(f"Table: {folder / 'sweep.csv'}")
    failed = [run for run in runs if run.status == "failed"]
    for run in failed:
        print(f"covid-xray: {run.folder.name} failed: {printable(run.error or '')}", file=sys.stderr)
    return len(failed)


def shown_metrics(objective: str) -> list[str]:
    """Metrics of a sweep's table: the objective and, if it has no interval, the accuracy on the same images."""
    split, _, name = objective.partition("/")
    return [objective] if name.split("/")[0] in ("accuracy", "recall") else [objective, f"{split}/accuracy"]


def sweep_csv(runs: Sequence[SweepRun], objective: str) -> str:
    """The table of a sweep as CSV: one row per job; metrics with the limits of their 95 % intervals."""
    metrics = shown_metrics(objective)
    limits = [column for metric in metrics for column in (metric, f"{metric} low", f"{metric} high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "overrides", "status", *limits, "seconds", "folder", "error"])
    for number, run in enumerate(runs):
        intervals = [run.interval(metric) for metric in metrics]
        values = [_number(value) for i in intervals for value in (i.value, i.low, i.high)]
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        overrides = " ".join(f"{key}={value}" for key, value in run.overrides.items())
        texts = map(spreadsheet_text, (overrides, run.status, *values, seconds, run.folder.name, run.error or ""))
        writer.writerow([number, *texts])
    return text.getvalue()


def sweep_table(runs: Sequence[SweepRun], objective: str) -> "Table":
    """The table of a sweep for the terminal, with the overrides that differ between jobs."""
    from rich.table import Table

    metrics = shown_metrics(objective)
    table = Table(title="Sweep (95 % Wilson intervals)", title_justify="left")
    for column in ("job", "overrides", "status", *metrics, "minutes"):
        table.add_column(column, justify="left" if column in ("overrides", "status") else "right", overflow="fold")
    varied = {key for run in runs for key, value in run.overrides.items() if value != runs[0].overrides.get(key)}
    for number, run in enumerate(runs):
        overrides = " ".join(setting_text(key, value) for key, value in run.overrides.items() if key in varied)
        intervals = [run.interval(metric) for metric in metrics]
        values = ["" if math.isnan(i.value) else i.text() for i in intervals]
        minutes = "" if run.seconds is None else f"{run.seconds / 60:.1f}"
        table.add_row(str(number), printable(overrides), run.status, *values, minutes)
    return table


def setting_text(key: str, value: str) -> str:
    """A setting for a narrow table: without the prefix that all phases share, and with four digits."""
    with contextlib.suppress(ValueError):
        value = f"{float(value):.4g}" if len(value) > 8 else value
    return f"{key.removeprefix(PHASES)}={value}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
