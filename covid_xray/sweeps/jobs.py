"""A sweep read back from what lies in its run folders, whoever ran the jobs and however often they were stopped."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covid_xray.errors import UserError

if TYPE_CHECKING:
    from covid_xray.metrics.intervals import Interval

PLAN = "jobs.json"  # in a sweep's folder: the overrides of every job that was planned, by name of its run folder
JOB = "job.json"  # in a run's folder: overrides and the time of the first start
FAILURE = "failure.txt"  # in a run's folder: why the last attempt failed, in its first line
CLOCK = "runtime.json"  # in a run's folder: seconds spent so far, and when the attempt that runs now was begun


@dataclass(frozen=True)
class SweepRun:
    """One job of a sweep.

    Attributes:
        folder: Its run folder; need not exist.
        overrides: Value by setting, as given to the job.
        status: ``finished``, ``partial`` (begun, and to be continued), ``failed`` or ``missing`` (planned, not begun).
        metrics: Final figures by name, such as ``val/accuracy``; empty unless finished.
        seconds: Wall-clock time over all restarts, without what was lost to kills; None if not known.
        error: The sentence that tells why it failed; None if it did not.
    """

    folder: Path
    overrides: dict[str, str]
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None

    def interval(self, metric: str) -> "Interval":
        """A figure with Wilson's interval, if it is the share of a counted number of images.

        Images of one patient count as independent here; `covid-xray evaluate` does better.

        Args:
            metric: Such as ``val/accuracy``, ``test/recall/normal`` or ``val/loss``.

        Returns:
            Nan without limits where the run has no such figure; no limits where it is no share.
        """
        from covid_xray.metrics.intervals import Interval, wilson_interval  # not before needed: imports scipy

        value = self.metrics.get(metric, math.nan)
        split, _, name = metric.partition("/")
        kind, _, class_name = name.partition("/")
        trials = self.metrics.get(f"{split}/images/{class_name}" if class_name else f"{split}/images", math.nan)
        if math.isnan(value) or kind not in ("accuracy", "recall") or math.isnan(trials):
            return Interval(value, math.nan, math.nan)
        return wilson_interval(round(value * trials), trials)


def read_sweep(folder: Path) -> list[SweepRun]:
    """Every job of a sweep: the planned ones in their order, then others in the order in which they were begun.

    Raises:
        UserError: If the folder is none of a sweep, or one of its files is damaged.
    """
    plan = _read_json(folder / PLAN)
    begun = {file.parent.name: _read_json(file) for file in sorted(folder.glob(f"*/{JOB}"))}
    if not plan and not begun:
        raise UserError(f"{folder} is no sweep: no run folder with {JOB} lies in it")
    others = sorted((name for name in begun if name not in plan), key=lambda name: float(begun[name]["begun"]))
    return [
        _read_run(folder / name, begun[name]["overrides"] if name in begun else plan[name], name in begun)
        for name in [*plan, *others]
    ]


def seconds_spent(folder: Path) -> float | None:
    """Wall-clock seconds of a run over all attempts; None if it was never begun.

    Of an attempt that was killed, the time to its newest checkpoint counts: what came after is lost and done again.
    """
    clock = _read_json(folder / CLOCK)
    if not clock:
        return None
    seconds = float(clock["seconds"])
    newest = folder / "checkpoints" / "last.ckpt"
    if clock["begun"] is not None and newest.is_file():
        seconds += max(0.0, newest.stat().st_mtime - float(clock["begun"]))
    return seconds


def shown_metrics(objective: str) -> list[str]:
    """What a sweep's table shows: the objective, and beside one without an interval the accuracy on the same images."""
    split, _, name = objective.partition("/")
    return [objective] if name.split("/")[0] in ("accuracy", "recall") else [objective, f"{split}/accuracy"]


def sweep_csv(runs: Sequence[SweepRun], objective: str) -> str:
    """The table of a sweep as CSV: a row per job; figures as plain numbers, with the limits of their 95 % intervals."""
    metrics = shown_metrics(objective)
    limits = [column for metric in metrics for column in (metric, f"{metric} low", f"{metric} high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", "overrides", "status", *limits, "seconds", "folder", "error"])
    for number, run in enumerate(runs):
        intervals = [run.interval(metric) for metric in metrics]
        figures = [_number(value) for i in intervals for value in (i.value, i.low, i.high)]
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        overrides = " ".join(f"{key}={value}" for key, value in run.overrides.items())
        writer.writerow([number, overrides, run.status, *figures, seconds, run.folder.name, run.error or ""])
    return text.getvalue()


def _read_run(folder: Path, overrides: dict[str, str], begun: bool) -> SweepRun:
    failure = folder / FAILURE
    if failure.is_file():
        error = failure.read_text(encoding="utf-8").split("\n")[0]
        return SweepRun(folder, overrides, "failed", seconds=seconds_spent(folder), error=error)
    metrics: dict[str, float] = _read_json(folder / "metrics.json")
    status = "finished" if metrics else "partial" if begun else "missing"
    return SweepRun(folder, overrides, status, metrics, seconds_spent(folder))


def _read_json(file: Path) -> dict[str, Any]:
    """What a file holds; empty if there is none."""
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); remove it, or restore it") from None
    return content


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
