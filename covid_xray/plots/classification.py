"""Figures of one evaluation: confusion matrix, ROC and precision-recall curves, reliability diagram, bars.

The colours are Okabe and Ito's palette, which is safe for colour-blind readers. Lines also differ in their dashes.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import ReliabilityBins
from covid_xray.metrics.intervals import Interval, wilson_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.plots.figure import FULL_WIDTH, HALF_WIDTH, PlainFigure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
GREY = "#666666"
BAR_METRICS = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV", "f1": "F1"}


def confusion_matrix_figure(counts: npt.ArrayLike, class_names: Sequence[str]) -> Figure:
    """Confusion matrix. Each cell shows its count and its share of the row; the share sets the shade.

    Args:
        counts: Whole numbers (c, c); rows are true classes, columns are predicted classes.
        class_names: The c class names.

    Raises:
        UserError: If the shape of ``counts`` does not match ``class_names``.
    """
    cells, c = np.asarray(counts, dtype=np.int64), len(class_names)
    if cells.shape != (c, c):
        raise UserError(f"a confusion matrix of {c} classes has shape {(c, c)}, not {cells.shape}")
    totals = cells.sum(axis=1, keepdims=True)
    shares = cells / np.maximum(totals, 1)
    size = max(HALF_WIDTH, 1.1 * c + 1.2)
    figure, axis = _figure(size, 0.86 * size)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    fontsize = 11 if c <= 6 else 7
    for (row, column), count in np.ndenumerate(cells):
        share = f"{100 * shares[row, column]:.1f} %" if totals[row, 0] else "no cases"
        colour = "white" if shares[row, column] > 0.55 else "black"
        axis.text(column, row - 0.1, f"{count:,}", ha="center", va="center", color=colour, fontsize=1.25 * fontsize)
        axis.text(column, row + 0.2, share, ha="center", va="center", color=colour, fontsize=0.85 * fontsize)
    names = [_wrapped(name) for name in class_names]
    axis.set_xticks(range(c), names, rotation=0 if c <= 4 else 45, ha="center" if c <= 4 else "right")
    labels = [f"{name}\nn = {total:,}" for name, total in zip(names, totals[:, 0], strict=True)]
    axis.set_yticks(range(c), labels)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    bar.outline.set_visible(False)
    return figure


def roc_figure(predictions: Predictions, intervals: Mapping[str, Interval] | None = None) -> Figure:
    """ROC curve of each class against all others. A class is omitted if it has no image or all images.

    Args:
        predictions: Predictions of the model.
        intervals: Intervals by metric name; the legend shows ``auroc/<class>``.
    """
    from sklearn.metrics import roc_curve  # here, because training draws no such figure

    figure, axis = _figure(HALF_WIDTH, HALF_WIDTH)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    axis.text(0.6, 0.575, "chance", color=GREY, fontsize=9, rotation=45, rotation_mode="anchor", va="top")
    for k, name in enumerate(predictions.class_names):
        is_target = predictions.labels == k
        if is_target.any() and not is_target.all():
            false_positive_rate, true_positive_rate, _ = roc_curve(is_target, predictions.probabilities[:, k])
            label = _legend(name, int(is_target.sum()), (intervals or {}).get(f"auroc/{name}"), "AUROC")
            axis.plot(false_positive_rate, true_positive_rate, label=label, **_line(k))
    _square(axis, "1 - specificity", "sensitivity")
    _legend_below(axis)
    return figure


def precision_recall_figure(predictions: Predictions, intervals: Mapping[str, Interval] | None = None) -> Figure:
    """Precision-recall curve of each class that has images. Thin lines show the chance level.

    Args:
        predictions: Predictions of the model.
        intervals: Intervals by metric name; the legend shows ``average_precision/<class>``.
    """
    from sklearn.metrics import precision_recall_curve

    figure, axis = _figure(HALF_WIDTH, HALF_WIDTH)
    for k, name in enumerate(predictions.class_names):
        is_target = predictions.labels == k
        if is_target.any():
            precision, recall, _ = precision_recall_curve(is_target, predictions.probabilities[:, k])
            label = _legend(name, int(is_target.sum()), (intervals or {}).get(f"average_precision/{name}"), "AP")
            # Steps, because average precision is a sum of steps and does not interpolate between thresholds.
            axis.step(recall, precision, where="post", label=label, **_line(k))
            axis.axhline(is_target.mean(), color=COLOURS[k % len(COLOURS)], linewidth=0.7, linestyle=(0, (2, 3)))
    _square(axis, "sensitivity (recall)", "PPV (precision)")
    axis.plot([], [], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)), label="chance")
    _legend_below(axis)
    return figure


def reliability_figure(curves: Mapping[str, ReliabilityBins], errors: Mapping[str, Interval] | None = None) -> Figure:
    """Reliability diagram: accuracy against confidence in the left panel, number of images in the right panel.

    Args:
        curves: Bins by name, such as ``as trained`` and ``calibrated``.
        errors: Expected calibration error by the same names; the legend shows it.
    """
    figure = PlainFigure(figsize=(FULL_WIDTH, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    left.text(0.15, 0.165, "perfectly calibrated", color=GREY, fontsize=9, rotation=45, rotation_mode="anchor")
    for index, (name, bins) in enumerate(curves.items()):
        filled = bins.counts > 0
        label = name
        if (error := (errors or {}).get(name)) is not None:
            label += f": ECE {error.text()}"
        # Intervals show that a bin of 3 images is less certain than a bin of 300.
        hits = np.round(bins.accuracy[filled] * bins.counts[filled])
        limits = [wilson_interval(hit, count) for hit, count in zip(hits, bins.counts[filled], strict=True)]
        line = _line(index) | {"linewidth": 1.2}
        shift = 0.006 * (index - (len(curves) - 1) / 2)
        x = bins.confidence[filled] + shift
        left.plot(x, bins.accuracy[filled], label=label, marker="o", markersize=4, **line)
        low, high = ([getattr(limit, end) for limit in limits] for end in ("low", "high"))
        left.vlines(x, low, high, color=line["color"], alpha=0.45, linewidth=1.2)
        width = (bins.edges[1] - bins.edges[0]) / len(curves)
        right.bar(bins.edges[:-1] + (index + 0.5) * width, bins.counts, 0.9 * width, color=line["color"], linewidth=0)
    _square(left, "probability of the predicted class", "accuracy with 95 % interval")
    left.set_aspect("auto")  # as wide as the right panel
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=9)
    right.set(xlabel="probability of the predicted class", ylabel="images", xlim=(0, 1))
    _clean(right)
    return figure


def class_bars_figure(intervals: Mapping[str, Interval], cases: Mapping[str, int]) -> Figure:
    """Bars of sensitivity, specificity, PPV, NPV and F1 of each class, with their intervals.

    Args:
        intervals: Intervals by ``<metric>/<class>``.
        cases: Number of test images by class, in the order of the plot.
    """
    names = list(cases)
    figure, axis = _figure(HALF_WIDTH if len(names) <= 4 else max(FULL_WIDTH, 0.6 * len(names)), 4.8)
    width = 0.84 / len(BAR_METRICS)
    for index, metric in enumerate(BAR_METRICS):
        for k, name in enumerate(names):
            interval = intervals[f"{metric}/{name}"]
            x = k + (index - (len(BAR_METRICS) - 1) / 2) * width
            if np.isnan(interval.value):
                axis.text(x, 0.02, "n/a", ha="center", fontsize=7, color=GREY, rotation=90)
                continue
            axis.bar(x, interval.value, 0.9 * width, color=COLOURS[index], alpha=0.75, linewidth=0)
            if not np.isnan(interval.low):
                axis.vlines(x, interval.low, interval.high, color="black", linewidth=1.3)
    axis.set_xticks(range(len(names)), [f"{_wrapped(name)}\nn = {cases[name]:,}" for name in names])
    axis.set(ylim=(0, 1.02), ylabel="value with 95 % interval")
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.grid(axis="y", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    _clean(axis)
    keys = [Patch(color=COLOURS[i], alpha=0.75, label=label) for i, label in enumerate(BAR_METRICS.values())]
    figure.legend(
        handles=keys,
        loc="outside upper center",
        ncols=len(keys),
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        columnspacing=1.2,
    )
    return figure


def figure_png(figure: Figure, dpi: int = 150) -> bytes:
    """Encode a figure as PNG, without date and software name: equal figures give equal bytes.

    The first call fixes the layout. Do not add artists to the figure after it.
    """
    figure.draw_without_rendering()
    # Constrained layout starts from its last result, so repeated drawing would change the image slightly.
    figure.set_layout_engine("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = PlainFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _wrapped(name: str, width: int = 14) -> str:
    """A name in lines that fit below the columns of a matrix in half a page."""
    return textwrap.fill(name, width)


def _line(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.8}


def _legend(name: str, cases: int, interval: Interval | None, metric: str) -> str:
    label = f"{_wrapped(name, 30)} (n = {cases:,})"
    return label if interval is None else f"{label}: {metric} {interval.text()}"


def _square(axis: Axes, xlabel: str, ylabel: str) -> None:
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=xlabel, ylabel=ylabel)
    axis.set_aspect("equal")
    axis.grid(color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)
    _clean(axis)


def _clean(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)


def _legend_below(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, fontsize=9)
