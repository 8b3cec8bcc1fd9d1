"""Figures that compare the runs of a sweep: final metrics, their dependence on settings, learning curves."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from covid_xray.metrics.intervals import Interval
from covid_xray.plots.classification import COLOURS, GREY
from covid_xray.plots.figure import FULL_WIDTH, PlainFigure
from covid_xray.reporting.sweep_tables import REPEATS, Setting, is_proportion, settings_text, varied_keys
from covid_xray.sweeps.jobs import SweepRun
from covid_xray.sweeps.learning_curves import Curve
from covid_xray.sweeps.names import PHASES

_COLOURED = 6  # settings with a colour of their own; more colours are hard to distinguish
_LEAKED_AND_NOT = {
    "test/accuracy": "test images, leaked into training",
    "unseen/accuracy": "images of unseen patients",
}
_LIGHT = "#c8ccd0"


def ranking_figure(settings: Sequence[Setting], metric: str) -> Figure:
    """Every run as a dot with its 95 % interval; a row per setting; a black bar is the mean of repeated runs.

    Args:
        settings: In the order to draw, from the top; those without the metric are left out.
        metric: The final metric.
    """
    shown = [setting for setting in settings if setting.values(metric)]
    figure, axis = _rows([setting.name for setting in shown], metric)
    for row, setting in enumerate(shown):
        intervals = [run.interval(metric) for run in setting.runs if not math.isnan(run.metrics.get(metric, math.nan))]
        colour = COLOURS[row] if row < _COLOURED else GREY
        for place, interval in enumerate(intervals):
            _draw_interval(axis, interval, row + 0.5 * ((place + 0.5) / len(intervals) - 0.5), colour)
        if len(intervals) > 1:
            axis.vlines(setting.mean(metric), row - 0.36, row + 0.36, color="black", linewidth=2)
    return figure


def leaked_runs(runs: Sequence[SweepRun]) -> list[SweepRun]:
    """Runs that were tested on images that leaked into training and on images of unseen patients."""
    return [run for run in runs if all(metric in run.metrics for metric in _LEAKED_AND_NOT)]


def leak_figure(runs: Sequence[SweepRun], keys: Sequence[str]) -> Figure:
    """Accuracy on test images that leaked into training, and on unseen patients, with 95 % intervals, a row per run.

    Args:
        runs: From `leaked_runs`, at least one.
        keys: Settings that name a run.
    """
    figure, axis = _rows([settings_text(run, keys) for run in runs], "accuracy", "test/accuracy")
    for row, run in enumerate(runs):
        axis.plot([run.metrics[metric] for metric in _LEAKED_AND_NOT], [row, row], color=_LIGHT, linewidth=5, zorder=1)
    for (metric, label), colour in zip(_LEAKED_AND_NOT.items(), COLOURS, strict=False):
        for row, run in enumerate(runs):
            _draw_interval(axis, run.interval(metric), row, colour)
        axis.plot([], [], "o", color=colour, label=label)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=2)
    return figure


def numeric_keys(runs: Sequence[SweepRun]) -> list[str]:
    """Settings that are numbers in every run, with at least three values."""
    keys = [key for key in varied_keys(runs) if key not in REPEATS]
    values = {key: {_value(run, key) for run in runs} for key in keys}
    return [key for key in keys if len(values[key]) >= 3 and None not in values[key]]


def settings_figure(runs: Sequence[SweepRun], metric: str, keys: Sequence[str]) -> Figure:
    """A final metric over each numeric setting, with a panel each; logarithmic if the values span a factor of 10.

    Args:
        runs: Runs of the sweep; those without the metric are left out.
        metric: The final metric.
        keys: From `numeric_keys`, at least one.
    """
    figure = PlainFigure(figsize=(1.2 + 3.6 * len(keys), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axis, key in zip(panels, keys, strict=True):
        for run in runs:
            interval, place = run.interval(metric), _value(run, key)
            if math.isnan(interval.value) or place is None:
                continue
            if not math.isnan(interval.low):
                axis.vlines(place, interval.low, interval.high, color=COLOURS[0], linewidth=1.4, alpha=0.4)
            axis.plot(place, interval.value, "o", color=COLOURS[0], markersize=5)
        places = [value for run in runs if (value := _value(run, key)) is not None]
        if min(places) > 0 and max(places) / min(places) >= 10:
            axis.set_xscale("log")
        axis.set_xlabel(key.removeprefix(PHASES))
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        _format(axis.yaxis, metric)
    panels[0].set_ylabel(metric)
    return figure


def curves_figure(
    settings: Sequence[Setting],
    curves: Mapping[str, Mapping[str, Curve]],
    tags: Sequence[str],
    phases: Mapping[str, int],
) -> Figure:
    """Learning curves of all runs by epoch, with a panel per tag and a dotted line at the end of each phase.

    Args:
        settings: In the order of `ranking_figure`, and with its colours; further settings are light grey.
        curves: By name of the run folder, then by tag.
        tags: The curves to draw.
        phases: Epochs by phase; empty if the runs differ in them.
    """
    figure = PlainFigure(
        figsize=(FULL_WIDTH, 0.9 + 2.7 * len(tags) + 0.22 * min(len(settings), _COLOURED)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tags), 1, sharex=True, squeeze=False)[:, 0]
    for axis, tag in zip(panels, tags, strict=True):
        for row, setting in reversed(list(enumerate(settings))):  # the best setting is drawn last, above the others
            for run in setting.runs:
                curve = curves.get(run.folder.name, {}).get(tag, {})
                colour = COLOURS[row] if row < _COLOURED else _LIGHT
                marker = "o" if len(curve) == 1 else None
                axis.plot(list(curve), list(curve.values()), color=colour, linewidth=1.4, alpha=0.85, marker=marker)
        heights = [height for of_run in curves.values() for height in of_run.get(tag, {}).values()]
        if tag.endswith("/loss") and heights and max(heights) > 10 * min(heights) > 0:
            axis.set_yscale("log")  # otherwise one diverging loss hides all others
        axis.set_ylabel(tag)
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _format(axis.yaxis, tag)
        _mark_phases(axis, phases, axis is panels[0])
    panels[-1].set_xlabel("epoch")
    names = [setting.name for setting in settings[:_COLOURED]] + ["others"] * (len(settings) > _COLOURED)
    for row, name in enumerate(names):
        panels[0].plot([], [], color=COLOURS[row] if row < _COLOURED else _LIGHT, label=_wrapped(name, 90))
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _rows(names: Sequence[str], label: str, metric: str | None = None) -> tuple[Figure, Axes]:
    """An empty figure with a named row for every name, and the axis of a metric."""
    figure = PlainFigure(figsize=(FULL_WIDTH, 1.1 + 0.42 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_yticks(range(len(names)), [_wrapped(name) for name in names], fontsize=9)
    axis.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    _format(axis.xaxis, metric or label)
    return figure, axis


def _draw_interval(axis: Axes, interval: Interval, height: float, colour: str) -> None:
    if not math.isnan(interval.low):
        axis.hlines(height, interval.low, interval.high, color=colour, linewidth=1.6, alpha=0.55)
    axis.plot(interval.value, height, "o", color=colour, markersize=5)


def _mark_phases(axis: Axes, phases: Mapping[str, int], named: bool) -> None:
    first = 1
    for name, epochs in phases.items():
        if first > 1:
            axis.axvline(first - 0.5, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
        if named:
            middle = first + (epochs - 1) / 2
            axis.text(middle, 1.02, name, ha="center", fontsize=8, color=GREY, transform=axis.get_xaxis_transform())
        first += epochs
    if phases:
        axis.set_xlim(0.5, first - 0.5)


def _format(axis: Axis, metric: str) -> None:
    axis.axes.set_axisbelow(True)
    if is_proportion(metric):
        axis.set_major_formatter(PercentFormatter(1.0))


def _value(run: SweepRun, key: str) -> float | None:
    try:
        return float(run.overrides[key])
    except (KeyError, ValueError):
        return None


def _wrapped(name: str, width: int = 44) -> str:
    return textwrap.fill(name, width, break_long_words=False)
