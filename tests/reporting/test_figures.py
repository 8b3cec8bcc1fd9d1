"""The figures of the reports, by what they show."""

from pathlib import Path

import numpy as np
import pytest
from drawn import bars, line_collections, pixels, xs, ys
from fake_result import CLASSES, make_predictions, make_result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import top_label_bins
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.intervals import Interval
from covid_xray.plots import classification, evaluation
from covid_xray.reporting.evaluation_report import draw
from covid_xray.reporting.sweep_plots import curves_figure, numeric_keys, ranking_figure, settings_figure
from covid_xray.reporting.sweep_tables import group_runs
from covid_xray.runs.evaluate import AS_TRAINED, CALIBRATED, CENTRE_BLACK, RANDOM, TOP_LOSS, EvaluationResult
from covid_xray.runs.inference import WHOLE
from covid_xray.sweeps.jobs import SweepRun


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    return make_result(tmp_path_factory.mktemp("result"))


@pytest.fixture(scope="module")
def figures(result: EvaluationResult) -> dict[str, Figure]:
    return {name: picture.figure for name, picture in draw(result).items()}


def labels(figure: Figure) -> list[str]:
    """The entries of all legends."""
    legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def ticks(axis: Axes) -> list[str]:
    """The names on the vertical axis."""
    return [label.get_text() for label in axis.get_yticklabels()]


def test_confusion_matrix_shows_counts_and_shares(result: EvaluationResult, figures: dict[str, Figure]) -> None:
    counts = result.estimates.scores.confusion
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    axis = figures["confusion"].axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert texts == [text for pair in zip(counts.flat, shares.flat) for text in (str(pair[0]), f"{pair[1]:.1f} %")]  # noqa: B905
    assert np.allclose(pixels(axis.images[0]), shares / 100)
    assert ticks(axis)[:2] == ["covid-19\nn = 8", "normal\nn = 30"]


def test_curves_have_the_area_of_the_metric(result: EvaluationResult, figures: dict[str, Figure]) -> None:
    predictions = result.predictions
    guess, *lines = figures["roc"].axes[0].lines
    assert xs(guess) == ys(guess) == [0, 1]
    for k, (name, line) in enumerate(zip(CLASSES, lines, strict=True)):
        area = np.trapezoid(ys(line), xs(line))
        assert area == pytest.approx(roc_auc_score(predictions.labels == k, predictions.probabilities[:, k]))
        assert result.metrics[f"auroc/{name}"].text() in labels(figures["roc"])[k]
    precisions = [entry for entry in labels(figures["precision_recall"]) if "AP" in entry]
    expected = [result.metrics[f"average_precision/{name}"].text() for name in CLASSES]
    assert [entry.rpartition("AP ")[2] for entry in precisions] == expected
    levels = [ys(line)[0] for line in figures["precision_recall"].axes[0].lines[1:6:2]]
    assert levels == [pytest.approx(count / 68) for count in (8, 30, 30)], "guessing gives the share of the class"


def test_bars_are_the_metrics_of_every_class(result: EvaluationResult, figures: dict[str, Figure]) -> None:
    heights = [bar.get_height() for bar in bars(figures["by_class"].axes[0])]
    names = ("sensitivity", "specificity", "ppv", "npv", "f1")
    assert heights == [result.metrics[f"{metric}/{name}"].value for metric in names for name in CLASSES]


def test_reliability_counts_every_image(result: EvaluationResult, figures: dict[str, Figure]) -> None:
    entries = [f"{name}: ECE {result.variants[name].intervals['ece'].text()}" for name in (AS_TRAINED, CALIBRATED)]
    assert labels(figures["reliability"]) == entries
    heights = [bar.get_height() for bar in bars(figures["reliability"].axes[1])]
    bins = [top_label_bins(part.labels, part.probabilities) for part in (result.uncalibrated, result.predictions)]
    assert heights == [count for part in bins for count in part.counts]
    assert sum(heights) == 2 * 68


def test_shortcut_figure_compares_masked_images(result: EvaluationResult, figures: dict[str, Figure]) -> None:
    accuracy, auroc = figures["shortcuts"].axes
    assert ticks(accuracy) == [WHOLE, CENTRE_BLACK]
    intervals = result.conditions[WHOLE].intervals
    assert bars(accuracy)[0].get_width() == intervals["balanced_accuracy"].value
    assert bars(auroc)[0].get_width() == intervals["macro_auroc"].value
    chance = [xs(line)[0] for axis in (accuracy, auroc) for line in axis.lines]
    assert chance == [pytest.approx(1 / 3), 0.5]


def test_saliency_figure_shows_image_and_map(result: EvaluationResult, figures: dict[str, Figure]) -> None:
    axes = figures["saliency"].axes
    assert [axis.get_title() for axis in axes] == [
        f"{kind}: {result.predictions.describe(row)}" for kind, row in ((TOP_LOSS, 1), (RANDOM, 2))
    ]
    pair, heat = axes[0].images
    assert pixels(pair).shape == (8, 16)
    assert np.array_equal(pixels(heat), np.ones((8, 8)))


def test_figures_without_calibration_saliency_and_a_class(tmp_path: Path) -> None:
    predictions = make_predictions(missing=True)
    found = estimate(predictions, 20)
    changes = {"predictions": predictions, "variants": {AS_TRAINED: found}, "conditions": {WHOLE: found}}
    result = make_result(tmp_path, **changes, uncalibrated=predictions, calibration=None, gallery=None)
    drawn = draw(result)
    assert "saliency" not in drawn
    assert len(labels(drawn["reliability"].figure)) == 1
    assert len(drawn["roc"].figure.axes[0].lines) == 1 + 2
    assert [text.get_text() for text in drawn["by_class"].figure.axes[0].texts].count("n/a") >= 1
    assert xs(drawn["shortcuts"].figure.axes[0].lines[0])[0] == 0.5


def test_comparison_figure_shows_differences() -> None:
    comparison = compare(make_predictions(), make_predictions(1), ("old", "new"), resamples=50)
    names = ["accuracy", "sensitivity/covid-19"]
    figure = evaluation.comparison_figure(comparison, names)
    axis = figure.axes[0]
    assert ticks(axis) == ["accuracy", "sensitivity, covid-19"]
    assert [xs(line)[0] for line in axis.lines[1:]] == [comparison.differences[name].value for name in names]
    assert axis.get_xlabel().startswith("new minus old")
    with pytest.raises(UserError, match="speed"):
        evaluation.comparison_figure(comparison, ["speed"])


def test_figures_reject_wrong_shapes() -> None:
    with pytest.raises(UserError, match="confusion matrix"):
        classification.confusion_matrix_figure(np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(UserError, match="1 images, 2 maps and 1 titles"):
        evaluation.saliency_figure(np.zeros((1, 8, 8)), np.zeros((2, 8, 8)), ["a"])


def test_png_is_the_same_every_time(figures: dict[str, Figure]) -> None:
    content = classification.figure_png(figures["roc"], 40)
    assert content.startswith(b"\x89PNG")
    assert content == classification.figure_png(figures["roc"], 40)


@pytest.fixture
def runs() -> list[SweepRun]:
    """Three learning rates with two seeds; one run is not finished."""
    found = []
    for number, (rate, seed) in enumerate((rate, seed) for rate in ("1e-4", "1e-3", "1e-2") for seed in "01"):
        metrics = {"test/accuracy": 0.5 + 0.05 * number, "test/images": 20.0} if number < 5 else {}
        status = "finished" if metrics else "partial"
        overrides = {"schedule.phases.one.max_lr": rate, "seed": seed, "name": f"run{number}"}
        found.append(SweepRun(Path(f"run{number}"), overrides, status, metrics))
    return found


def test_ranking_shows_every_run_best_setting_first(runs: list[SweepRun]) -> None:
    settings = group_runs(runs, "test/accuracy")
    axis = ranking_figure(settings, "test/accuracy").axes[0]
    assert ticks(axis) == ["one.max_lr=1e-2", "one.max_lr=1e-3", "one.max_lr=1e-4"]
    dots = [xs(line)[0] for line in axis.lines]
    assert dots == pytest.approx([0.7, 0.6, 0.65, 0.5, 0.55])
    intervals = [[part[0][0], part[1][0]] for c in line_collections(axis) for part in c.get_segments() if c.get_alpha()]
    assert intervals[0] == [runs[4].interval("test/accuracy").low, runs[4].interval("test/accuracy").high]
    means = [part[0][0] for c in line_collections(axis) for part in c.get_segments() if not c.get_alpha()]
    assert means == pytest.approx([0.625, 0.525]), "only settings with several finished runs have a mean"


def test_settings_figure_is_logarithmic(runs: list[SweepRun]) -> None:
    keys = numeric_keys(runs)
    assert keys == ["schedule.phases.one.max_lr"]
    axis = settings_figure(runs, "test/accuracy", keys).axes[0]
    assert axis.get_xscale() == "log"
    assert axis.get_xlabel() == "one.max_lr"
    dots = [(xs(line)[0], ys(line)[0]) for line in axis.lines]
    assert dots == [(float(run.overrides[keys[0]]), run.metrics["test/accuracy"]) for run in runs[:5]]


def test_learning_curves_by_epoch(runs: list[SweepRun]) -> None:
    settings = group_runs(runs, "test/accuracy")
    curves = {f"run{i}": {"val/loss": {1: 2.0 + i, 2: 1.0 + i}} for i in range(5)}
    axis = curves_figure(settings, curves, ["val/loss"], {"one": 1, "two": 1}).axes[0]
    shown = sorted(tuple(ys(line)) for line in axis.lines if xs(line) == [1, 2])
    assert shown == [(2.0 + i, 1.0 + i) for i in range(5)]
    assert [text.get_text() for text in axis.texts] == ["one", "two"]
    assert 1.5 in [xs(line)[0] for line in axis.lines if len(xs(line)) == 2], "the end of phase one"
    assert labels(axis.figure) == [setting.name for setting in settings]  # type: ignore[arg-type]


def test_interval_without_limits_is_a_dot() -> None:
    undefined = Interval(np.nan, np.nan, np.nan)
    figure = evaluation.shortcut_figure({"a": (Interval(0.5, 0.4, 0.6), undefined)}, 0.5)
    assert len(figure.axes[0].patches) == 1
    assert not figure.axes[1].patches
