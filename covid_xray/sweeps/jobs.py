"""The jobs of a sweep: planned, started, failed, and read back from their run folders.

The files alone decide, so any launcher may run the jobs, and a stopped sweep can continue.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from covid_xray.errors import UserError
from covid_xray.files import lock, write_atomically, write_failure
from covid_xray.runs.folder import FAILURE_FILE, JOB_FILE, RunFolder, damaged, is_number, read_json, seconds_spent
from covid_xray.sweeps.names import job_overrides, run_name

if TYPE_CHECKING:
    from covid_xray.metrics.intervals import Interval

PLAN = "jobs.json"  # in a sweep's folder: the overrides of every planned job, by the name of its run folder


@dataclass(frozen=True)
class SweepRun:
    """One job of a sweep.

    Attributes:
        folder: Its run folder; it exists once the job has started.
        overrides: Value by setting, as given to the job.
        status: ``finished``, ``partial`` (started, not finished), ``failed`` or ``missing`` (planned, not started).
        metrics: Final metrics by name, such as ``val/accuracy``; empty unless finished.
        seconds: Wall-clock time over all sessions, without work that a kill lost; None if unknown.
        error: Why the job failed, in one sentence; None if it did not fail.
    """

    folder: Path
    overrides: dict[str, str]
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None

    def interval(self, metric: str) -> "Interval":
        """A metric with Wilson's interval, if it is a proportion of a known number of images.

        Images of one patient count as independent here; `covid-xray evaluate` takes patients into account.

        Args:
            metric: Such as ``val/accuracy``, ``test/recall/normal`` or ``val/loss``.

        Returns:
            The value with limits; the limits are nan if the metric is no proportion, and the value is nan if the run
            does not have the metric.
        """
        from covid_xray.metrics.intervals import (  # imported here because scipy is slow to load
            Interval,
            wilson_interval,
        )

        value = self.metrics.get(metric, math.nan)
        split, _, name = metric.partition("/")
        kind, _, class_name = name.partition("/")
        trials = self.metrics.get(f"{split}/images/{class_name}" if class_name else f"{split}/images", math.nan)
        if kind not in ("accuracy", "recall") or not (0 <= value <= 1 and trials >= 1):
            return Interval(value, math.nan, math.nan)
        return wilson_interval(round(value * trials), trials)


def lock_sweep(folder: Path) -> IO[str]:
    """Create a sweep's folder and lock it for this process.

    Returns:
        The lock, which is held until it is closed or the process ends.

    Raises:
        UserError: If the folder cannot be written, or another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / ".lock")
    except OSError as error:
        raise write_failure(folder, error) from None
    if held is None:
        raise UserError(
            f"another sweep runs in {folder}; wait until it ends, or choose another folder with hydra.sweep.dir=..."
        )
    return held


def write_plan(folder: Path, jobs: Iterable[Sequence[str]], left_out: Iterable[str]) -> int:
    """Record which jobs a sweep has, so that those that never started can be listed.

    Args:
        folder: The sweep's folder.
        jobs: The override lines of each job.
        left_out: Settings that the names of run folders leave out.

    Returns:
        Number of jobs.

    Raises:
        UserError: If two jobs would have the same run folder.
    """
    plan: dict[str, dict[str, str]] = {}
    for lines in jobs:
        name = run_name(lines, left_out)
        if name in plan:
            raise UserError(
                f"two jobs of the sweep differ in nothing that changes a result, and both would run in {name}; "
                f"leave one of them out"
            )
        plan[name] = job_overrides(lines)
    write_atomically(folder / PLAN, json.dumps(plan, indent=2) + "\n")
    return len(plan)


def start_job(folder: Path, lines: Iterable[str]) -> None:
    """Record in a run folder that its job starts, and remove the failure of an earlier session.

    Args:
        folder: The run folder.
        lines: The job's override lines.
    """
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    if not (folder / JOB_FILE).is_file():
        job = {"overrides": job_overrides(lines), "begun": time.time()}
        write_atomically(folder / JOB_FILE, json.dumps(job) + "\n")


def fail_job(folder: Path, sentence: str, details: str) -> None:
    """Record in a run folder why its job failed: one sentence, then the details."""
    write_atomically(folder / FAILURE_FILE, f"{sentence}\n{details}")


def read_sweep(folder: Path) -> list[SweepRun]:
    """Read all jobs of a sweep: first the planned ones in their order, then others in the order of their first start.

    Raises:
        UserError: If the folder holds no sweep, or one of its files is damaged.
    """
    plan = {name: _overrides(value, folder / PLAN) for name, value in read_json(folder / PLAN).items()}
    if outside := [name for name in plan if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name)]:
        raise damaged(folder / PLAN, f"{outside[0]!r} is no name of a run folder")
    begun = {file.parent.name: _read_job(file) for file in sorted(folder.glob(f"*/{JOB_FILE}"))}
    if not plan and not begun:
        raise UserError(f"{folder} is no sweep: it contains no run folder with {JOB_FILE}; give a sweep's folder")
    others = sorted((name for name in begun if name not in plan), key=lambda name: begun[name]["begun"])
    return [
        _read_run(folder / name, begun[name]["overrides"] if name in begun else plan[name], name in begun)
        for name in [*plan, *others]
    ]


def _read_job(file: Path) -> dict[str, Any]:
    job = read_json(file)
    if not is_number(job.get("begun")):
        raise damaged(file, "begun is not a number")
    return job | {"overrides": _overrides(job.get("overrides"), file)}


def _overrides(value: object, file: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise damaged(file, "the overrides are not a mapping of settings to text")
    return value


def _read_run(folder: Path, overrides: dict[str, str], begun: bool) -> SweepRun:
    failure, seconds = folder / FAILURE_FILE, seconds_spent(folder)
    if failure.is_file():  # also if an earlier session finished
        with failure.open(encoding="utf-8", errors="replace") as lines:
            error = lines.readline(2000).rstrip("\n")
        return SweepRun(folder, overrides, "failed", seconds=seconds, error=error)
    metrics = RunFolder(folder).finished_metrics() or {}
    status = "finished" if metrics else "partial" if begun else "missing"
    return SweepRun(folder, overrides, status, metrics, seconds)
