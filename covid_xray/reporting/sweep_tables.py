"""The runs of a sweep, those that differ by chance only taken together, as tables of words and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from covid_xray.reporting.tables import Table
from covid_xray.sweeps.jobs import SweepRun

# Settings that repeat a run rather than change it.
REPEATS = ("seed", "data.fold")
# Say which sweep a run belongs to, not what it does: runs of two commands may lie in one folder.
_PLACES = ("sweep", "name")
_PREFIX = "schedule.phases."  # phases have telling names of their own


@dataclass(frozen=True)
class Setting:
    """Runs of a sweep that differ in seed or fold only.

    Attributes:
        name: The settings that differ within the sweep, as words.
        runs: The runs, finished or not.
    """

    name: str
    runs: tuple[SweepRun, ...]

    def values(self, metric: str) -> list[float]:
        """A final figure of every run that has it."""
        return [run.metrics[metric] for run in self.runs if not math.isnan(run.metrics.get(metric, math.nan))]

    def mean(self, metric: str) -> float:
        """Mean over the runs; nan if none has the figure."""
        values = self.values(metric)
        return statistics.fmean(values) if values else math.nan

    def sd(self, metric: str) -> float:
        """Standard deviation (n - 1) over the runs; nan for fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan


def varied_keys(runs: Sequence[SweepRun]) -> list[str]:
    """Names of the settings that are not the same in all runs, in the order in which they were given."""
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    return [key for key in keys if key not in _PLACES and len({run.overrides.get(key) for run in runs}) > 1]


def group_runs(runs: Sequence[SweepRun], metric: str, lowest_first: bool) -> list[Setting]:
    """Take together what differs in seed or fold only.

    Args:
        runs: Of a sweep.
        metric: Settings are sorted by its mean; those without it come last.
        lowest_first: Whether low values are good, as of a loss.
    """
    keys = [key for key in varied_keys(runs) if key not in REPEATS]
    groups: dict[str, list[SweepRun]] = {}
    for run in runs:
        groups.setdefault(settings_text(run, keys), []).append(run)
    settings = [Setting(name, tuple(members)) for name, members in groups.items()]

    def rank(setting: Setting) -> tuple[bool, float]:
        mean = setting.mean(metric)
        return math.isnan(mean), mean if lowest_first else -mean

    return sorted(settings, key=rank)


def settings_table(settings: Sequence[Setting], metric: str) -> Table:
    """A row per setting: how many runs are finished, mean, SD and range of a figure."""
    rows = []
    for setting in settings:
        values, sd = setting.values(metric), setting.sd(metric)
        spread = f"{number(metric, min(values))} to {number(metric, max(values))}" if len(values) > 1 else ""
        mean = number(metric, setting.mean(metric)) if values else "none finished"
        finished = f"{sum(run.status == 'finished' for run in setting.runs)} of {len(setting.runs)}"
        rows.append((setting.name, finished, mean, "" if math.isnan(sd) else number(metric, sd), spread))
    note = "SD describes the spread over the repeated runs; it is no standard error, and of few runs it is rough."
    return Table(("setting", "finished", f"mean {metric}", "SD", "range"), tuple(rows), "By setting", note)


def runs_table(settings: Sequence[Setting], metric: str) -> Table:
    """A row per run: its settings, status, the figure with its 95 % interval where it is a share, and time."""
    runs = [run for setting in settings for run in setting.runs]
    keys = varied_keys(runs)
    rows = []
    for run in runs:
        interval = run.interval(metric)
        figure = "" if math.isnan(interval.value) else interval.text(percent=is_share(metric))
        minutes = "" if run.seconds is None else f"{run.seconds / 60:.1f}"
        rows.append((settings_text(run, keys), run.status, figure, minutes, run.error or ""))
    header, used = ("run", "status", metric, "minutes", "why it failed"), 5 if any(row[4] for row in rows) else 4
    note = (
        "Intervals are Wilson's, with images taken as independent: with several images of a patient they are too "
        "narrow; covid-xray evaluate takes patients into account. They tell the doubt that the test images leave, not "
        "that which another seed would add."
        if is_share(metric)
        else ""
    )
    return Table(header[:used], tuple(row[:used] for row in rows), "By run, with 95 % intervals" * bool(note), note)


def results_csv(runs: Sequence[SweepRun], metric: str) -> str:
    """A row per run: every setting that was given, status, the figure with its limits, all other figures, seconds."""
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    others = sorted({name for run in runs for name in run.metrics} - {metric})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "status", metric, f"{metric} low", f"{metric} high", *others, "seconds", "error"])
    for run in runs:
        interval = run.interval(metric)
        figures = [interval.value, interval.low, interval.high, *(run.metrics.get(name, math.nan) for name in others)]
        cells = ["" if math.isnan(value) else f"{value:.6g}" for value in figures]
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        settings = [run.overrides.get(key, "") for key in keys]
        writer.writerow([*settings, run.status, *cells, seconds, run.error or ""])
    return text.getvalue()


def is_share(metric: str) -> bool:
    """Whether a figure is a share of images, and said in percent."""
    return metric.split("/")[1:2] in (["accuracy"], ["recall"])


def number(metric: str, value: float) -> str:
    """A figure as words."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def settings_text(run: SweepRun, keys: Sequence[str]) -> str:
    """Some settings of a run as words."""
    told = [f"{key.removeprefix(_PREFIX)}={run.overrides[key]}" for key in keys if key in run.overrides]
    return ", ".join(told) or "as configured"
