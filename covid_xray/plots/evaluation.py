"""Figures that set things side by side: two models, masked images, heat maps over X-rays."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import Comparison
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.scores import LABELS, OVERALL
from covid_xray.plots.classification import COLOURS, GREY


def comparison_figure(comparison: Comparison, names: Sequence[str] = ()) -> Figure:
    """Differences of two models with their intervals; whose interval leaves out 0 is in colour.

    Args:
        comparison: From `covid_xray.metrics.comparison.compare`.
        names: Figures of merit to draw; all that do not belong to a class, by default.

    Raises:
        UserError: If a name is unknown.
    """
    chosen = list(names) or [name for name in OVERALL if name != "no_information_rate"]
    if unknown := [name for name in chosen if name not in comparison.differences]:
        raise UserError(f"{unknown[0]!r} was not compared")
    rows = [(name, comparison.differences[name]) for name in chosen]
    rows = [(name, interval) for name, interval in rows if not np.isnan(interval.value)]
    figure = Figure(figsize=(8.6, 1.2 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.axvline(0, color=GREY, linewidth=0.9)
    for place, (_, interval) in enumerate(rows):
        sure = interval.low > 0 or interval.high < 0
        colour = COLOURS[0] if sure else GREY
        axis.hlines(place, interval.low, interval.high, color=colour, linewidth=2)
        axis.plot(interval.value, place, "o", color=colour, markersize=5)
        axis.text(1.02, place, interval.text(), transform=axis.get_yaxis_transform(), va="center", fontsize=9)
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
        chance: Balanced accuracy of guessing, drawn as a line; the AUROC's is 0.5.
    """
    figure = Figure(figsize=(7.6, 1.3 + 0.5 * len(conditions)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (axis, title, level) in enumerate(
        zip(panels, ("balanced accuracy", "macro AUROC"), (chance, 0.5), strict=True)
    ):
        for place, pair in enumerate(conditions.values()):
            interval = pair[panel]
            if np.isnan(interval.value):
                continue
            axis.barh(place, interval.value, 0.62, color=COLOURS[0] if place == 0 else COLOURS[4], linewidth=0)
            axis.hlines(place, interval.low, interval.high, color="black", linewidth=1.4)
            inside = f"{interval.value:.2f}"
            axis.text(0.02, place, inside, va="center", fontsize=9, color="white" if place == 0 else "black")
        axis.axvline(level, color="black", linewidth=1, linestyle=(0, (3, 3)))
        axis.text(level + 0.02, -0.5, "guessing", va="bottom", fontsize=8, color=GREY)
        axis.set(xlim=(0, 1.01), xlabel=title, ylim=(len(conditions) - 0.5, -0.85))
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(conditions)), list(conditions))
    return figure


def saliency_figure(
    images: npt.ArrayLike, maps: npt.ArrayLike, titles: Sequence[str], columns: int = 4, headline: str = ""
) -> Figure:
    """Pairs of X-ray and heat map.

    Args:
        images: Grey images (n, h, w), uint8 or in [0, 1].
        maps: Heat maps (n, h, w) in [0, 1].
        titles: Words above each pair.
        columns: Pairs in a row.
        headline: Words above all.

    Raises:
        UserError: If the numbers of images, maps and titles differ or are 0.
    """
    grey, heat = np.asarray(images), np.asarray(maps, dtype=np.float64)
    if not len(grey) == len(heat) == len(titles) or len(titles) == 0:
        raise UserError(f"{len(grey)} images, {len(heat)} maps and {len(titles)} titles do not fit together")
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(3.3 * columns, 1.85 * rows + (0.35 if headline else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    top = 255 if grey.dtype == np.uint8 else 1
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes:
        axis.axis("off")
    for axis, image, hot, title in zip(figure.axes, grey, heat, titles, strict=False):
        width = image.shape[1]
        axis.imshow(np.hstack([image, image]), cmap="gray", vmin=0, vmax=top)
        extent = (width - 0.5, 2 * width - 0.5, image.shape[0] - 0.5, -0.5)
        # Transparent where nothing speaks for the class: the anatomy stays readable.
        axis.imshow(hot, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * np.sqrt(np.clip(hot, 0, 1)), extent=extent)
        axis.set(xlim=(-0.5, 2 * width - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
        axis.set_title(title, fontsize=8)
    if headline:
        figure.suptitle(headline, fontsize=11)
    return figure


def _label(name: str) -> str:
    metric, _, own = name.partition("/")
    return f"{LABELS[metric]}, {own}" if own else LABELS[metric]
