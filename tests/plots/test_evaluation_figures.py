import numpy as np
import pytest
from drawn import bars, line_collections, pixels, xs, ys
from matplotlib import colormaps

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import Comparison, McNemar
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.scores import LABELS, OVERALL
from covid_xray.plots.classification import COLOURS, GREY
from covid_xray.plots.evaluation import (
    comparison_figure,
    heat_overlay,
    saliency_figure,
    shortcut_figure,
    sources_figure,
)
from covid_xray.plots.images import batch_figure

NAN = Interval(np.nan, np.nan, np.nan)


def comparison() -> Comparison:
    differences = {name: Interval(0.01 * i, 0.01 * i - 0.02, 0.01 * i + 0.02) for i, name in enumerate(OVERALL)}
    differences |= {"mcc": NAN, "sensitivity/covid-19": Interval(-0.3, -0.5, -0.1)}
    return Comparison(("old", "new"), {}, {}, differences, McNemar(0, 0, 0, 0, 1.0, ""))


def test_comparison_figure_shows_each_difference_with_its_interval() -> None:
    found = comparison()
    (axis,) = comparison_figure(found, ["accuracy", "mcc", "sensitivity/covid-19"]).axes
    zero, *points = axis.lines
    assert xs(zero) == [0, 0]
    assert [(xs(point)[0], ys(point)[0]) for point in points] == [(0, 0), (-0.3, 1)]
    assert [point.get_color() for point in points] == [GREY, COLOURS[0]]
    segments = [lines.get_segments()[0].tolist() for lines in line_collections(axis)]
    assert segments == [[[-0.02, 0], [0.02, 0]], [[-0.5, 1], [-0.1, 1]]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["accuracy", "sensitivity, covid-19"]
    assert [text.get_text() for text in axis.texts] == ["0.000 (-0.020 to 0.020)", "-0.300 (-0.500 to -0.100)"]
    assert axis.get_xlabel().startswith("new minus old")
    bottom, top = axis.get_ylim()
    assert bottom > top, "the first metric is at the top"


def test_comparison_figure_shows_all_defined_overall_metrics_by_default() -> None:
    (axis,) = comparison_figure(comparison()).axes
    names = [name for name in OVERALL if name not in ("no_information_rate", "mcc")]
    assert [label.get_text() for label in axis.get_yticklabels()] == [LABELS[name] for name in names]
    values = [xs(line)[0] for line in axis.lines[1:]]
    assert values == [comparison().differences[name].value for name in names]
    with pytest.raises(UserError, match="'speed' was not compared; use one of accuracy"):
        comparison_figure(comparison(), ["speed"])


def test_shortcut_figure_has_a_bar_for_each_condition_and_metric() -> None:
    whole = (Interval(0.9, 0.8, 0.95), Interval(0.97, 0.96, 0.98))
    black = (Interval(0.4, 0.3, 0.5), NAN)
    figure = shortcut_figure({"whole image": whole, "centre blacked out": black}, 0.25)
    left, right = figure.axes
    for axis, widths, chance in ((left, [0.9, 0.4], 0.25), (right, [0.97], 0.5)):
        assert [bar.get_width() for bar in bars(axis)] == widths
        assert [bar.get_y() + bar.get_height() / 2 for bar in bars(axis)] == pytest.approx(range(len(widths)))
        assert [text.get_text() for text in axis.texts] == [*(f"{width:.2f}" for width in widths), "chance"]
        (line,) = axis.lines
        assert xs(line) == [chance, chance]
    segments = [lines.get_segments()[0].tolist() for lines in line_collections(left, right)]
    assert segments == [[[0.8, 0], [0.95, 0]], [[0.3, 1], [0.5, 1]], [[0.96, 0], [0.98, 0]]]
    assert [label.get_text() for label in left.get_yticklabels()] == ["whole image", "centre blacked out"]
    assert (left.get_xlabel(), right.get_xlabel()) == ("balanced accuracy", "macro AUROC")


@pytest.mark.parametrize(("dtype", "maximum"), [(np.uint8, 255), (np.float32, 1)])
def test_saliency_figure_shows_each_image_and_its_map(dtype: type, maximum: int) -> None:
    random = np.random.default_rng(0)
    images: np.ndarray = (maximum * random.random((3, 6, 8))).astype(dtype)
    maps = random.random((3, 6, 8))
    figure = saliency_figure(images, maps, ["a", "b", "c"], columns=2, headline="errors")
    *axes, empty = figure.axes
    assert len(axes) == 3
    assert not empty.images
    for axis, image, heat, title in zip(axes, images, maps, "abc", strict=True):
        grey, overlay = axis.images
        assert np.array_equal(pixels(grey), np.hstack([image, image]))
        assert grey.get_clim() == (0, maximum)
        assert np.array_equal(pixels(overlay), heat)
        alpha = overlay.get_alpha()
        assert alpha is not None
        assert np.array_equal(alpha, 0.65 * np.sqrt(heat))
        assert tuple(overlay.get_extent()) == (7.5, 15.5, 5.5, -0.5)
        assert axis.get_title() == title
    assert figure.get_suptitle() == "errors"
    with pytest.raises(UserError, match="3 images, 3 maps and 1 titles"):
        saliency_figure(images, maps, ["a"])


def test_heat_overlay_shows_the_image_and_its_heat() -> None:
    image = np.array([[0, 100, 200]], np.uint8)
    shown = heat_overlay(image, [[0, 0, 1]])
    assert shown.shape == (1, 6, 3)
    assert shown[0, :5].tolist() == [[grey] * 3 for grey in (0, 100, 200, 0, 100)], "no heat: the image itself"
    hottest = np.array(colormaps["inferno"](1.0)[:3])
    assert shown[0, 5] == pytest.approx(0.65 * 255 * hottest + 0.35 * 200, abs=1)


def test_sources_figure_has_a_panel_for_each_source() -> None:
    labels, predicted = [0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]
    probabilities = np.where(np.eye(2)[predicted] > 0, 0.8, 0.2)
    predictions = Predictions.build(labels, probabilities, ["ill", "well"])
    parts = {"north": predictions.select(range(4)), "south $x$": predictions.select([4, 5])}
    found = {name: estimate(part, 10) for name, part in parts.items()}
    north, south = sources_figure(found).axes[:2]
    assert [north.get_title(), south.get_title()] == ["north (n = 4)", "south $x$ (n = 2)"]
    assert [(xs(line)[0], ys(line)[0]) for line in north.lines] == [(0.75, 0), (0.5, 1), (1, 2)]
    assert [(xs(line)[0], ys(line)[0]) for line in south.lines] == [(1, 0), (1, 1)]
    assert [text.get_text() for text in south.texts] == ["no image"]
    segments = [lines.get_segments()[0][:, 0].tolist() for lines in line_collections(north)]
    names = ("accuracy", "sensitivity/ill", "sensitivity/well")
    limits = [found["north"].intervals[name] for name in names]
    assert segments == [[interval.low, interval.high] for interval in limits]
    assert [label.get_text() for label in north.get_yticklabels()] == [name.replace("/", ", ") for name in names]


@pytest.mark.parametrize(("dtype", "maximum"), [(np.uint8, 255), (np.float32, 1)])
def test_batch_figure_shows_each_image_with_title_and_size(dtype: type, maximum: int) -> None:
    images: np.ndarray = (maximum * np.random.default_rng(0).random((3, 6, 8))).astype(dtype)
    *axes, empty = batch_figure(images, ["normal", "ill", "normal"], columns=2).axes
    assert not empty.images
    assert [axis.get_title() for axis in axes] == ["normal, 8 px", "ill, 8 px", "normal, 8 px"]
    for axis, image in zip(axes, images, strict=True):
        (shown,) = axis.images
        assert np.array_equal(pixels(shown), image)
        assert shown.get_clim() == (0, maximum)
