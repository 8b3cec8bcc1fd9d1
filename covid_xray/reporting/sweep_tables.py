"""The runs of a sweep as tables and as CSV; runs that differ only in seed or fold form one setting."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from covid_xray.files import spreadsheet_text
from covid_xray.reporting.tables import Table
from covid_xray.sweeps.jobs import SweepRun
from covid_xray.sweeps.names import PHASES, better

# Settings that repeat a run rather than change it.
REPEATS = ("seed", "split.fold")
# The place of a run in folders; runs of two commands may share a folder.
_PLACES = ("sweep", "name")


@dataclass(frozen=True)
class Setting:
    """Runs of a sweep that differ only in seed or fold.

    Attributes:
        name: The values that differ within the sweep.
        runs: The runs, finished or not.
    """

    name: str
    runs: tuple[SweepRun, ...]

    def values(self, metric: str) -> list[float]:
        """A final metric of every run that has it."""
        return [run.metrics[metric] for run in self.runs if not math.isnan(run.metrics.get(metric, math.nan))]

    def mean(self, metric: str) -> float:
        """Mean over the runs; nan if no run has the metric."""
        values = self.values(metric)
        return statistics.fmean(values) if values else math.nan

    def sd(self, metric: str) -> float:
        """Standard deviation (n - 1) over the runs; nan for fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan


def varied_keys(runs: Sequence[SweepRun]) -> list[str]:
    """Names of the settings that differ between runs, in the order in which they were given."""
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    return [key for key in keys if key not in _PLACES and len({run.overrides.get(key) for run in runs}) > 1]


def group_runs(runs: Sequence[SweepRun], metric: str) -> list[Setting]:
    """Group runs that differ only in seed or fold.

    Args:
        runs: The runs of a sweep.
        metric: Settings are sorted by its mean, best first; those without it come last.
    """
    keys = [key for key in varied_keys(runs) if key not in REPEATS]
    groups: dict[str, list[SweepRun]] = {}
    for run in runs:
        groups.setdefault(settings_text(run, keys), []).append(run)
    settings = [Setting(name, tuple(members)) for name, members in groups.items()]
    sign = 1 if better(metric) == "minimize" else -1

    def rank(setting: Setting) -> tuple[bool, float]:
        mean = setting.mean(metric)
        return math.isnan(mean), sign * mean

    return sorted(settings, key=rank)


def summary_table(settings: Sequence[Setting], metric: str) -> Table:
    """A row per setting if a setting has several runs, else a row per run."""
    return settings_table(settings, metric) if is_repeated(settings) else runs_table(settings, metric)


def is_repeated(settings: Sequence[Setting]) -> bool:
    """Whether a setting has several runs."""
    return any(len(setting.runs) > 1 for setting in settings)


def settings_table(settings: Sequence[Setting], metric: str) -> Table:
    """A row per setting: number of finished runs, mean, SD and range of a metric."""
    rows = []
    for setting in settings:
        values, sd = setting.values(metric), setting.sd(metric)
        spread = f"{value_text(metric, min(values))} to {value_text(metric, max(values))}" if len(values) > 1 else ""
        mean = value_text(metric, setting.mean(metric)) if values else "none finished"
        finished = f"{sum(run.status == 'finished' for run in setting.runs)} of {len(setting.runs)}"
        rows.append((setting.name, finished, mean, "" if math.isnan(sd) else value_text(metric, sd), spread))
    note = "SD is the spread over the repeated runs, not a standard error; with few runs, it is imprecise."
    return Table(("setting", "finished", f"mean {metric}", "SD", "range"), tuple(rows), "By setting", note)


def runs_table(settings: Sequence[Setting], metric: str) -> Table:
    """A row per run: settings, status, metric (with a 95 % interval if it is a proportion), and time."""
    runs = [run for setting in settings for run in setting.runs]
    keys = varied_keys(runs)
    rows = []
    for run in runs:
        interval = run.interval(metric)
        value = "" if math.isnan(interval.value) else interval.text(percent=is_proportion(metric))
        minutes = "" if run.seconds is None else f"{run.seconds / 60:.1f}"
        rows.append((settings_text(run, keys), run.status, value, minutes, run.error or ""))
    header, used = ("run", "status", metric, "minutes", "why it failed"), 5 if any(row[4] for row in rows) else 4
    caption, note = "By run", ""
    if is_proportion(metric):
        caption = "By run, with 95 % intervals"
        note = (
            "Wilson intervals, which assume independent images: with several images per patient they are too narrow; "
            "covid-xray evaluate takes patients into account. They contain the uncertainty from the test images, not "
            "the variation between seeds."
        )
    return Table(header[:used], tuple(row[:used] for row in rows), caption, note)


def results_csv(runs: Sequence[SweepRun], metric: str) -> str:
    """A row per run: all settings, status, the metric with its limits, all other metrics, seconds, error."""
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    others = sorted({name for run in runs for name in run.metrics} - {metric})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*keys, "status", metric, f"{metric} low", f"{metric} high", *others, "seconds", "error"]
    writer.writerow(map(spreadsheet_text, columns))
    for run in runs:
        interval = run.interval(metric)
        values = [interval.value, interval.low, interval.high, *(run.metrics.get(name, math.nan) for name in others)]
        cells = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        settings = [run.overrides.get(key, "") for key in keys]
        writer.writerow(map(spreadsheet_text, [*settings, run.status, *cells, seconds, run.error or ""]))
    return text.getvalue()


def is_proportion(metric: str) -> bool:
    """Whether a metric is a proportion of images, which is shown in percent."""
    return metric.split("/")[1:2] in (["accuracy"], ["recall"])


def value_text(metric: str, value: float) -> str:
    """A value of a metric as text."""
    return f"{100 * value:.1f} %" if is_proportion(metric) else f"{value:.4g}"


def settings_text(run: SweepRun, keys: Sequence[str]) -> str:
    """Some settings of a run as text."""
    settings = [f"{key.removeprefix(PHASES)}={run.overrides[key]}" for key in keys if key in run.overrides]
    return ", ".join(settings) or "as configured"
