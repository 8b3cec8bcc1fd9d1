import io
from typing import Any

import numpy as np
import pytest
from drawn import bars, line_collections, pixels, xs, ys
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.lines import Line2D

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import ReliabilityBins
from covid_xray.metrics.intervals import Interval, wilson_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.plots.classification import (
    BAR_METRICS,
    COLOURS,
    class_bars_figure,
    confusion_matrix_figure,
    figure_png,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)

INTERVAL = Interval(0.75, 0.5, 0.9)


def predictions() -> Predictions:
    """Class b is scikit-learn's example of roc_curve and precision_recall_curve; class c has no image."""
    b = np.array([0.1, 0.4, 0.35, 0.8])
    a = np.array([0.5, 0.5, 0.1, 0.1])
    return Predictions.build([0, 0, 1, 1], np.c_[a, b, 1 - a - b], ["a", "b", "c"])


def labelled_lines(axis: Axes) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for line, label in zip(*axis.get_legend_handles_labels(), strict=True):
        assert isinstance(line, Line2D)
        found[label] = (xs(line), ys(line))
    return found


def legend_labels(axis: Axes) -> list[str]:
    legend = axis.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_confusion_matrix_shows_counts_and_shares() -> None:
    counts = [[1200, 300, 0], [1, 3, 0], [0, 0, 0]]
    axis, bar = confusion_matrix_figure(counts, ["a", "b", "c"]).axes
    cells: dict[tuple[int, int], list[str]] = {}
    for text in axis.texts:
        column, row = text.get_position()
        cells.setdefault((round(row), round(column)), []).append(text.get_text())
    assert cells == {
        **{(0, 0): ["1,200", "80.0 %"], (0, 1): ["300", "20.0 %"], (0, 2): ["0", "0.0 %"]},
        **{(1, 0): ["1", "25.0 %"], (1, 1): ["3", "75.0 %"], (1, 2): ["0", "0.0 %"]},
        **{(2, k): ["0", "no cases"] for k in range(3)},
    }
    (image,) = axis.images
    assert np.array_equal(pixels(image), [[0.8, 0.2, 0], [0.25, 0.75, 0], [0.0, 0, 0]])
    assert image.get_clim() == (0, 1)
    dark = {(round(t.get_position()[1]), round(t.get_position()[0])) for t in axis.texts if t.get_color() == "white"}
    assert dark == {(0, 0), (1, 1)}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a\nn = 1,500", "b\nn = 4", "c\nn = 0"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert bar.get_ylabel() == "share of the true class"
    with pytest.raises(UserError, match="confusion matrix of 2 classes"):
        confusion_matrix_figure(counts, ["a", "b"])


def test_roc_figure_has_one_curve_for_each_class_with_images() -> None:
    (axis,) = roc_figure(predictions(), {"auroc/b": INTERVAL}).axes
    assert labelled_lines(axis) == {
        "a (n = 2)": ([0, 0, 1], [0, 1, 1]),
        "b (n = 2): AUROC 0.750 (0.500 to 0.900)": ([0, 0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1, 1]),
    }
    assert legend_labels(axis) == list(labelled_lines(axis))
    diagonal, first, second = axis.lines
    assert (xs(diagonal), ys(diagonal)) == ([0, 1], [0, 1])
    assert [first.get_color(), second.get_color()] == list(COLOURS[:2])
    assert [text.get_text() for text in axis.texts] == ["chance"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("1 - specificity", "sensitivity")


def test_precision_recall_figure_has_one_curve_and_chance_line_for_each_class_with_images() -> None:
    (axis,) = precision_recall_figure(predictions(), {"average_precision/a": INTERVAL}).axes
    curves: dict[str, Any] = labelled_lines(axis)
    assert legend_labels(axis) == ["a (n = 2): AP 0.750 (0.500 to 0.900)", "b (n = 2)", "chance"]
    assert curves["b (n = 2)"] == ([1, 1, 0.5, 0.5, 0], pytest.approx([0.5, 2 / 3, 0.5, 1, 1]))
    recall, precision = curves["a (n = 2): AP 0.750 (0.500 to 0.900)"]
    assert (recall, precision) == ([1, 1, 0], [0.5, 1, 1])
    curve_a, chance_a, curve_b, chance_b, _ = axis.lines
    assert curve_a.get_drawstyle() == curve_b.get_drawstyle() == "steps-post"
    assert ys(chance_a) == ys(chance_b) == [0.5, 0.5]
    assert curve_b.get_color() == chance_b.get_color() == COLOURS[1]


def test_reliability_figure_shows_accuracy_with_intervals_and_counts() -> None:
    nan = np.nan
    edges = np.linspace(0, 1, 5)
    trained = ReliabilityBins(
        edges, np.array([0, 2, 0, 8]), np.array([nan, 0.4, nan, 0.9]), np.array([nan, 0.5, nan, 0.75])
    )
    calibrated = ReliabilityBins(
        edges, np.array([0, 0, 10, 0]), np.array([nan, nan, 0.7, nan]), np.array([nan, nan, 0.7, nan])
    )
    figure = reliability_figure({"as trained": trained, "calibrated": calibrated}, {"as trained": INTERVAL})
    top, bottom = figure.axes
    # The second curve is shifted by 0.006, so that the intervals do not overlap.
    curves: dict[str, Any] = {
        "as trained: ECE 0.750 (0.500 to 0.900)": (pytest.approx([0.397, 0.897]), [0.5, 0.75]),
        "calibrated": (pytest.approx([0.703]), [0.7]),
    }
    assert labelled_lines(top) == curves
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(labelled_lines(top))
    limits = [[segment[:, 1].tolist() for segment in lines.get_segments()] for lines in line_collections(top)]
    expected = [[wilson_interval(1, 2), wilson_interval(6, 8)], [wilson_interval(7, 10)]]
    assert limits == [[[interval.low, interval.high] for interval in curve] for curve in expected]
    drawn = [
        [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars(part)] for part in bottom.containers
    ]
    assert drawn[0] == [pytest.approx(bar) for bar in ((0.0625, 0), (0.3125, 2), (0.5625, 0), (0.8125, 8))]
    assert drawn[1] == [pytest.approx(bar) for bar in ((0.1875, 0), (0.4375, 0), (0.6875, 10), (0.9375, 0))]
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("accuracy with 95 % interval", "images")


def test_class_bars_show_values_and_intervals() -> None:
    values = {
        f"{metric}/{name}": 0.5 + 0.1 * i - 0.3 * k
        for i, metric in enumerate(BAR_METRICS)
        for k, name in enumerate("ab")
    }
    intervals = {name: Interval(value, value - 0.1, value + 0.05) for name, value in values.items()}
    intervals["ppv/b"] = Interval(np.nan, np.nan, np.nan, "", "never predicted")
    intervals["f1/a"] = Interval(0.9, np.nan, np.nan, "", "few resamples")
    figure = class_bars_figure(intervals, {"a": 1200, "b": 7})
    (axis,) = figure.axes
    width = 0.84 / 5
    shown = {(bar.get_x() + bar.get_width() / 2, bar.get_height(), to_hex(bar.get_facecolor())) for bar in bars(axis)}
    expected = {
        (k + (i - 2) * width, intervals[f"{metric}/{name}"].value, COLOURS[i].lower())
        for i, metric in enumerate(BAR_METRICS)
        for k, name in enumerate("ab")
        if f"{metric}/{name}" != "ppv/b"
    }
    close: list[Any] = [(pytest.approx(x), pytest.approx(height), colour) for x, height, colour in sorted(expected)]
    assert sorted(shown) == close
    lines = [segment for collection in line_collections(axis) for segment in collection.get_segments()]
    drawn = {name for name in intervals if name not in ("ppv/b", "f1/a")}
    assert sorted(tuple(line[:, 1]) for line in lines) == sorted((intervals[n].low, intervals[n].high) for n in drawn)
    (missing,) = axis.texts
    assert missing.get_text() == "n/a"
    position: tuple[Any, Any] = missing.get_position()
    assert position == (pytest.approx(1.0), 0.02)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a\nn = 1,200", "b\nn = 7"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(BAR_METRICS.values())


def test_png_has_the_size_and_ink_of_the_figure_and_equal_bytes_each_time() -> None:
    figure = confusion_matrix_figure([[8, 2], [1, 9]], ["a", "b"])
    content = figure_png(figure, 50)
    assert content == figure_png(figure, 50)
    assert b"Software" not in content
    png = imread(io.BytesIO(content))
    width, height = figure.get_size_inches()
    assert png.shape[:2] == (int(50 * height), int(50 * width))
    assert (png[..., :3].min(axis=2) < 0.9).mean() > 0.1
