"""Figures that set the runs of a sweep side by side: final figures, their dependence on numbers, learning curves."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from covid_xray.evaluation.figures import COLOURS, GREY
from covid_xray.evaluation.learning_curves import Curve
from covid_xray.evaluation.sweep import SweepRun
from covid_xray.evaluation.sweep_tables import REPEATS, Setting, is_share, varied_keys

_COLOURED = 6  # settings; more colours cannot be told apart
LEAKED_AND_NOT = ("test/accuracy", "unseen/accuracy")
_LIGHT = "#c8ccd0"


def ranking_figure(settings: Sequence[Setting], metric: str) -> Figure:
    """Every run as a dot with its 95 % interval, a row per setting, the mean of repeated runs as a bar across.

    Args:
        settings: In the order to draw, from the top; those without the figure are left out.
        metric: The final figure.
    """
    shown = [setting for setting in settings if setting.values(metric)]
    figure = Figure(figsize=(8.6, 1.1 + 0.42 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for row, setting in enumerate(shown):
        intervals = [run.interval(metric) for run in setting.runs if not math.isnan(run.metrics.get(metric, math.nan))]
        colour = COLOURS[row] if row < _COLOURED else GREY
        for place, interval in enumerate(intervals):
            height = row + 0.5 * ((place + 0.5) / len(intervals) - 0.5)
            if not math.isnan(interval.low):
                axis.hlines(height, interval.low, interval.high, color=colour, linewidth=1.6, alpha=0.55)
            axis.plot(interval.value, height, "o", color=colour, markersize=5)
        if len(intervals) > 1:
            axis.vlines(setting.mean(metric), row - 0.36, row + 0.36, color="black", linewidth=2)
    axis.set_yticks(range(len(shown)), [_wrapped(setting.name) for setting in shown], fontsize=9)
    axis.set(ylim=(len(shown) - 0.5, -0.5), xlabel=metric)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    _format(axis.xaxis, metric)
    return figure


def leak_figure(runs: Sequence[SweepRun]) -> Figure:
    """Accuracy on test images that leaked into training, and on unseen patients, with 95 % intervals, a row per run.

    Args:
        runs: Trained on leaking data: those that have both figures are drawn.
    """
    shown = [run for run in runs if all(name in run.metrics for name in LEAKED_AND_NOT)]
    figure = Figure(figsize=(8.6, 1.3 + 0.45 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for row, run in enumerate(shown):
        intervals = [run.interval(metric) for metric in LEAKED_AND_NOT]
        axis.plot([each.value for each in intervals], [row, row], color=_LIGHT, linewidth=5, zorder=1)
        for interval, colour in zip(intervals, COLOURS, strict=False):
            if not math.isnan(interval.low):
                axis.hlines(row, interval.low, interval.high, color=colour, linewidth=1.6, alpha=0.55)
            axis.plot(interval.value, row, "o", color=colour, markersize=7)
    for words, colour in zip(("test images, leaked into training", "images of unseen patients"), COLOURS, strict=False):
        axis.plot([], [], "o", color=colour, label=words)
    keys = varied_keys(shown)
    names = [", ".join(f"{key}={run.overrides.get(key, '')}" for key in keys) or run.folder.name for run in shown]
    axis.set_yticks(range(len(shown)), [_wrapped(name) for name in names], fontsize=9)
    axis.set(ylim=(len(shown) - 0.5, -0.5), xlabel="accuracy")
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    _format(axis.xaxis, LEAKED_AND_NOT[0])
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=2)
    return figure


def numeric_keys(runs: Sequence[SweepRun], least: int = 3) -> list[str]:
    """Settings that are a number in every run and have several values."""
    keys = [key for key in varied_keys(runs) if key not in REPEATS]
    return [key for key in keys if len({_value(run, key) for run in runs} - {None}) >= least and _always(runs, key)]


def settings_figure(runs: Sequence[SweepRun], metric: str, keys: Sequence[str]) -> Figure:
    """The final figure over each setting that is a number: a panel each, logarithmic where the values span decades.

    Args:
        runs: Of the sweep; those without the figure are left out.
        metric: The final figure.
        keys: From `numeric_keys`, at least one.
    """
    figure = Figure(figsize=(1.2 + 3.6 * len(keys), 3.4), layout="constrained")
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
        axis.set_xlabel(key.removeprefix("schedule.phases."))
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
    """Learning curves of all runs by epoch, a panel per tag, with a line where a phase ends.

    Args:
        settings: In the order of `ranking_figure`, whose colours they get; those beyond its colours are light grey.
        curves: By the name of the run's folder, then by tag.
        tags: What to draw.
        phases: Epochs by phase; empty where runs differ in them.
    """
    figure = Figure(figsize=(8.6, 0.9 + 2.7 * len(tags) + 0.22 * min(len(settings), _COLOURED)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tags), 1, sharex=True, squeeze=False)[:, 0]
    for axis, tag in zip(panels, tags, strict=True):
        for row, setting in reversed(list(enumerate(settings))):  # the best on top
            for run in setting.runs:
                curve = curves.get(run.folder.name, {}).get(tag, {})
                colour = COLOURS[row] if row < _COLOURED else _LIGHT
                marker = "o" if len(curve) == 1 else None
                axis.plot(list(curve), list(curve.values()), color=colour, linewidth=1.4, alpha=0.85, marker=marker)
        heights = [height for of_run in curves.values() for height in of_run.get(tag, {}).values()]
        if tag.endswith("/loss") and heights and max(heights) > 10 * min(heights) > 0:
            axis.set_yscale("log")  # one loss that explodes would flatten all others
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
    if is_share(metric):
        axis.set_major_formatter(PercentFormatter(1.0))


def _value(run: SweepRun, key: str) -> float | None:
    try:
        return float(run.overrides[key])
    except (KeyError, ValueError):
        return None


def _always(runs: Sequence[SweepRun], key: str) -> bool:
    return all(_value(run, key) is not None for run in runs)


def _wrapped(name: str, width: int = 44) -> str:
    return textwrap.fill(name, width, break_long_words=False)
