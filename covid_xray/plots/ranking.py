"""Figure of models ranked by one metric."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from covid_xray.metrics.intervals import Interval
from covid_xray.plots.classification import COLOURS
from covid_xray.plots.figure import FULL_WIDTH, PlainFigure


def ranking_figure(intervals: Mapping[str, Interval], label: str) -> Figure:
    """A row per model: the value as a dot with its interval.

    Args:
        intervals: Value of the metric with its interval by name of the model, from the top.
        label: Name of the metric.
    """
    figure = PlainFigure(figsize=(FULL_WIDTH, 1.2 + 0.42 * len(intervals)), layout="constrained")
    axis = figure.subplots()
    for row, interval in enumerate(intervals.values()):
        if not np.isnan(interval.low):
            axis.hlines(row, interval.low, interval.high, color=COLOURS[0], linewidth=2)
        axis.plot(interval.value, row, "o", color=COLOURS[0], markersize=5)
        axis.text(1.02, row, interval.text(), transform=axis.get_yaxis_transform(), va="center", fontsize=9)
    axis.set_yticks(range(len(intervals)), list(intervals), parse_math=False)
    axis.set(xlabel=f"{label}, with 95 % interval over patients", ylim=(len(intervals) - 0.5, -0.5))
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure
