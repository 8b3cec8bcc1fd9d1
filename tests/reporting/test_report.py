import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from covid_xray.errors import UserError
from covid_xray.metrics.calibration import top_label_bins
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import Estimates, estimate, fold_table
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import apply_operating_point, choose_operating_point
from covid_xray.plots import classification as figures
from covid_xray.plots import evaluation as study_figures
from covid_xray.reporting import tables
from covid_xray.reporting.html import NOT_FOR_DIAGNOSIS, Picture, Report, Section, render_report
from covid_xray.reporting.model_card import CLAIM_ITEMS, TO_FILL, render_model_card, unanswered

EVIL = '<script>alert("x")</script>'


def data(seed: int = 0, missing: bool = False) -> Predictions:
    random = np.random.default_rng(seed)
    labels = np.r_[np.zeros(8, int), np.ones(30, int), np.full(0 if missing else 30, 2)]
    powers = np.exp(random.normal(size=(len(labels), 3)) + 2 * np.eye(3)[labels])
    return Predictions.build(labels, powers / powers.sum(axis=1, keepdims=True), ["covid-19", "normal", EVIL])


@pytest.fixture(scope="module", params=[False, True], ids=["all classes", "a missing class"])
def tested(request: pytest.FixtureRequest) -> tuple[Predictions, Estimates]:
    predictions = data(missing=request.param)
    return predictions, estimate(predictions, resamples=100)


def test_every_figure_draws(tested: tuple[Predictions, Estimates]) -> None:
    predictions, found = tested
    bins = top_label_bins(predictions.labels, predictions.probabilities)
    balanced, macro = found.intervals["balanced_accuracy"], found.intervals["macro_auroc"]
    comparison = compare(predictions, data(1, missing=len(predictions.labels) < 60), resamples=50)
    drawn = [
        figures.confusion_matrix_figure(found.scores.confusion, predictions.class_names),
        figures.roc_figure(predictions, found.intervals),
        figures.precision_recall_figure(predictions, found.intervals),
        figures.reliability_figure({"as trained": bins}, {"as trained": found.intervals["ece"]}),
        figures.class_bars_figure(found.intervals, found.cases),
        study_figures.comparison_figure(comparison),
        study_figures.comparison_figure(comparison, ["accuracy", "sensitivity/covid-19"]),
        study_figures.shortcut_figure({"whole": (balanced, macro), "centre blacked out": (balanced, macro)}, 1 / 3),
        study_figures.saliency_figure(np.zeros((3, 8, 8), np.uint8), np.ones((3, 8, 8)), ["a", "b", "c"], 2, "errors"),
    ]
    for figure in drawn:
        assert isinstance(figure, Figure)
        content = figures.figure_png(figure, 40)
        assert content.startswith(b"\x89PNG")
        assert content == figures.figure_png(figure, 40)


def test_figures_refuse_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="confusion matrix"):
        figures.confusion_matrix_figure(np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(UserError, match="do not fit together"):
        study_figures.saliency_figure(np.zeros((1, 8, 8)), np.zeros((2, 8, 8)), ["a"])
    with pytest.raises(UserError, match="was not compared"):
        study_figures.comparison_figure(compare(data(), data(1), resamples=5), ["speed"])


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_one_sound_file_that_asks_no_network(tested: tuple[Predictions, Estimates]) -> None:
    predictions, found = tested
    point = choose_operating_point(data(2), "covid-19")
    operating = [apply_operating_point(point, predictions, prevalence) for prevalence in (0.05, None)]
    other = compare(predictions, predictions, resamples=10)
    shown = (
        tables.overall_table({"plain": found, "calibrated": found}),
        tables.class_table(found),
        tables.operating_table(operating),
        tables.published_table("this run", found, "covid-19", "a test"),
        tables.published_table("this run", found, None, "a test"),
        tables.comparison_table(other),
        tables.fold_values_table(fold_table({"0": predictions, "1": predictions})),
    )
    assert all(len(row) == len(table.header) for table in shown for row in table.rows)
    matrix = figures.confusion_matrix_figure(found.scores.confusion, ["a", "b", "c"])
    page = render_report(
        Report(
            f"Evaluation of {EVIL}",
            EVIL,
            {"accuracy": EVIL},
            [EVIL, *found.warnings],
            [
                Section(EVIL, [EVIL], [EVIL], [Picture(matrix, EVIL, dpi=40)], shown),
                Section("Where it looks", pictures=[Picture(figures.figure_png(matrix, 40), "photo", chart=False)]),
            ],
            {"commit": EVIL},
        )
    )
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    names = [tag for tag, _ in reader.tags]
    assert "script" not in names
    assert "link" not in names
    assert names.count("img") == 2
    assert names.count("table") == len(shown) + 1
    for tag, attributes in reader.tags:
        source = attributes.get("src") or ""
        assert not source or source.startswith("data:image/png;base64,")
        assert "srcset" not in attributes
        if tag == "a":
            assert (attributes["href"] or "").startswith("#part")
        if tag == "img":
            assert attributes["alt"]
    assert "url(" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert NOT_FOR_DIAGNOSIS in reader.text
    assert EVIL in reader.text
    assert "fewer than 30" in reader.text
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page


def test_an_empty_report_still_is_a_page() -> None:
    assert "<h1>Nothing</h1>" in render_report(Report("Nothing"))


def test_model_card_marks_what_a_person_must_write() -> None:
    assert [item.number for item in CLAIM_ITEMS] == list(range(1, 45))
    answers = {22: "ResNet-50\n- head: 512", 25: "four phases"}
    card = render_model_card("run 1", answers, {"accuracy | test": "0.9"}, ("few\ncases",))
    assert "2 of 44 items" in card
    assert card.count(TO_FILL) == 42 + 1
    assert "**22. Description of the model**: ResNet-50\n    - head: 512" in card
    assert "accuracy \\| test" in card
    assert "> Warning: few cases" in card
    assert {item.number for item in unanswered(answers)} == {item.number for item in CLAIM_ITEMS if item.software} - {
        22,
        25,
    }
    with pytest.raises(UserError, match="items 1 to 44, not 45"):
        render_model_card("run 1", {45: "x"})


def test_the_numpy_parts_know_neither_torch_nor_lightning_nor_hydra() -> None:
    modules = [
        *("reporting.html", "reporting.tables", "reporting.model_card", "plots.evaluation"),
        *("probes.source_probe", "probes.shortcuts", "metrics.thresholds"),
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {modules}: importlib.import_module('covid_xray.' + name)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print([name for name in ('torch', 'lightning', 'hydra') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
