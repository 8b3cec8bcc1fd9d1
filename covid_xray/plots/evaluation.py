"""Figures of model comparisons, shortcut tests and saliency maps."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import Comparison
from covid_xray.metrics.estimates import Estimates
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.scores import LABELS, OVERALL
from covid_xray.plots.classification import COLOURS, GREY
from covid_xray.plots.figure import FULL_WIDTH, PlainFigure


def comparison_figure(comparison: Comparison, names: Sequence[str] = ()) -> Figure:
    """Differences of two models with their intervals. A difference is in colour if its interval excludes 0.

    Args:
        comparison: Result of `covid_xray.metrics.comparison.compare`.
        names: Names of the metrics to draw; by default all metrics that do not belong to a class.

    Raises:
        UserError: If a name is unknown.
    """
    selected = list(names) or [name for name in OVERALL if name != "no_information_rate"]
    if unknown := [name for name in selected if name not in comparison.differences]:
        raise UserError(f"{unknown[0]!r} was not compared; use one of {', '.join(comparison.differences)}")
    rows = [(name, comparison.differences[name]) for name in selected]
    rows = [(name, interval) for name, interval in rows if not np.isnan(interval.value)]
    figure = PlainFigure(figsize=(FULL_WIDTH, 1.2 + 0.32 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=GREY, linewidth=0.9)
    for y, (_, interval) in enumerate(rows):
        colour = COLOURS[0] if interval.low > 0 or interval.high < 0 else GREY
        if not np.isnan(interval.low):
            axis.hlines(y, interval.low, interval.high, color=colour, linewidth=2)
        axis.plot(interval.value, y, "o", color=colour, markersize=5)
        axis.text(1.02, y, interval.text(), transform=axis.get_yaxis_transform(), va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [_label(name) for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlabel(f"{comparison.names[1]} minus {comparison.names[0]}, with 95 % interval over patients")
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def shortcut_figure(conditions: Mapping[str, tuple[Interval, Interval]], chance: float) -> Figure:
    """Balanced accuracy and macro AUROC on whole and on masked images.

    Args:
        conditions: Balanced accuracy and macro AUROC by condition, such as ``whole image`` and ``centre blacked out``.
        chance: Chance level of the balanced accuracy, drawn as a line. The chance level of the AUROC is 0.5.
    """
    figure = PlainFigure(figsize=(FULL_WIDTH, 1.3 + 0.5 * len(conditions)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    metrics = zip(*conditions.values(), strict=True)
    for axis, title, level, intervals in zip(
        panels, ("balanced accuracy", "macro AUROC"), (chance, 0.5), metrics, strict=True
    ):
        for y, interval in enumerate(intervals):
            if np.isnan(interval.value):
                continue
            axis.barh(y, interval.value, 0.62, color=COLOURS[0] if y == 0 else COLOURS[4], linewidth=0)
            if not np.isnan(interval.low):
                axis.hlines(y, interval.low, interval.high, color="black", linewidth=1.4)
            colour = "white" if y == 0 else "black"
            axis.text(0.02, y, f"{interval.value:.2f}", va="center", fontsize=9, color=colour)
        axis.axvline(level, color="black", linewidth=1, linestyle=(0, (3, 3)))
        axis.text(level + 0.02, -0.5, "chance", va="bottom", fontsize=8, color=GREY)
        axis.set(xlim=(0, 1.01), xlabel=title, ylim=(len(conditions) - 0.5, -0.85))
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(conditions)), list(conditions))
    return figure


def sources_figure(sources: Mapping[str, Estimates]) -> Figure:
    """A panel for each source: accuracy, and the sensitivity of each of its classes, with their intervals.

    Args:
        sources: All metrics of the images of each source, at least one.
    """
    columns = min(3, len(sources))
    rows, classes = -(-len(sources) // columns), len(next(iter(sources.values())).cases)
    figure = PlainFigure(figsize=(FULL_WIDTH, rows * (1.1 + 0.32 * (classes + 1))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in panels[len(sources) :]:
        axis.axis("off")
    for axis, (name, found) in zip(panels, sources.items(), strict=False):
        shown = {"accuracy": found.intervals["accuracy"]}
        shown |= {of_class: found.intervals[f"sensitivity/{of_class}"] for of_class in found.cases}
        for y, (_, interval) in enumerate(shown.items()):
            if np.isnan(interval.value):
                axis.text(0.02, y, "no image", va="center", fontsize=8, color=GREY)
                continue
            colour = "black" if y == 0 else COLOURS[0]
            axis.hlines(y, interval.low, interval.high, color=colour, linewidth=1.6)
            axis.plot(interval.value, y, "o", color=colour, markersize=5)
        names = ["accuracy", *(textwrap.fill(f"sensitivity, {of_class}", 30) for of_class in found.cases)]
        axis.set_yticks(range(len(shown)), names)
        axis.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5))
        axis.set_title(f"{textwrap.fill(name, 36)} (n = {sum(found.cases.values()):,})", fontsize=10)
        axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def heat_overlay(image: npt.NDArray[np.uint8], heat: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """An X-ray, and to the right of it the same X-ray with its heat map, as `saliency_figure` draws them.

    Args:
        image: Grey image (h, w), uint8.
        heat: Heat map (h, w) in [0, 1].

    Returns:
        Colours (h, 2 w, 3), uint8.
    """
    hot = np.asarray(heat, dtype=np.float64)
    opacity = _opacity(hot)[..., None]
    grey = np.repeat(image[..., None], 3, axis=2)
    mixed = opacity * 255 * colormaps["inferno"](hot)[..., :3] + (1 - opacity) * grey
    return np.hstack([grey, np.rint(mixed).astype(np.uint8)])


def saliency_figure(
    images: npt.ArrayLike, maps: npt.ArrayLike, titles: Sequence[str], columns: int = 4, headline: str = ""
) -> Figure:
    """Pairs of an X-ray and the same X-ray with its heat map.

    Args:
        images: Grey images (n, h, w), uint8 or in [0, 1].
        maps: Heat maps (n, h, w) in [0, 1].
        titles: Title of each pair.
        columns: Number of pairs in a row.
        headline: Title of the figure.

    Raises:
        UserError: If the numbers of images, maps and titles differ or are 0.
    """
    grey, heat = np.asarray(images), np.asarray(maps, dtype=np.float64)
    if not len(grey) == len(heat) == len(titles) or len(titles) == 0:
        raise UserError(f"{len(grey)} images, {len(heat)} maps and {len(titles)} titles do not fit together")
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = PlainFigure(figsize=(3.3 * columns, 1.85 * rows + (0.35 if headline else 0)), layout="constrained")
    maximum = 255 if grey.dtype == np.uint8 else 1
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, hot, title in zip(axes, grey, heat, titles, strict=False):
        width = image.shape[1]
        axis.imshow(np.hstack([image, image]), cmap="gray", vmin=0, vmax=maximum)
        extent = (width - 0.5, 2 * width - 0.5, image.shape[0] - 0.5, -0.5)
        axis.imshow(hot, cmap="inferno", vmin=0, vmax=1, alpha=_opacity(hot), extent=extent)
        axis.set(xlim=(-0.5, 2 * width - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
        axis.set_title(title, fontsize=8)
    if headline:
        figure.suptitle(headline, fontsize=11)
    return figure


def _opacity(heat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Low values are transparent, so that the anatomy stays visible."""
    opacity: npt.NDArray[np.float64] = 0.65 * np.sqrt(np.clip(heat, 0, 1))
    return opacity


def _label(name: str) -> str:
    metric, _, class_name = name.partition("/")
    return f"{LABELS[metric]}, {class_name}" if class_name else LABELS[metric]
