"""The HTML report and the tables."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_result import EVIL, make_predictions, make_result
from matplotlib.figure import Figure
from rich.console import Console

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import estimate, fold_table
from covid_xray.reporting import tables
from covid_xray.reporting.evaluation_report import build_report, draw
from covid_xray.reporting.html import (
    NOT_FOR_DIAGNOSIS,
    Mark,
    Photo,
    PhotoGroup,
    Picture,
    Report,
    Section,
    output_folder,
    render_report,
)


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_report_is_one_file_without_scripts_and_network(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    pictures = draw(result)
    report = build_report(result, EVIL, pictures)
    page = render_report(report)
    reader = Reader(page)
    names = [tag for tag, _ in reader.tags]
    assert not {"script", "link"} & set(names)
    assert names.count("img") == len(pictures) - 1 + 2, "the saliency maps are photos with text below, not a figure"
    assert names.count("section") == len(report.sections) + 1, "the last one is the provenance"
    assert names.count("table") == sum(len(section.tables) for section in report.sections) + 1
    for tag, attributes in reader.tags:
        assert re.match("data:image/(png|jpeg);base64,", attributes.get("src") or "data:image/png;base64,")
        assert "srcset" not in attributes
        if tag == "a":
            assert (attributes["href"] or "").startswith("#part")
        if tag == "img":
            assert attributes["alt"]
    policies = [attributes["content"] for _, attributes in reader.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    headline = [reader.texts.index(text) for text in ("Verdict", "Leak mark", "accuracy", "Contents", "Discrimination")]
    assert headline == sorted(headline)
    assert f'style="--all:{len(report.key_metrics or ())};' in page, "all key metrics in one row"
    assert names.count("li") == names.count("section"), "every part is in the contents"
    classes = [attributes.get("class") for _, attributes in reader.tags]
    assert (classes.count("even"), classes.count("photo"), classes.count("wide")) == (2, 2, 2)
    for text in (NOT_FOR_DIAGNOSIS, "Leak: 1 image.", "It uses a shortcut.", "fewer than 30", f"{EVIL}: few."):
        assert any(text in found for found in reader.texts), text


def test_text_is_escaped_everywhere() -> None:
    picture = Picture(Figure(figsize=(1, 1)), EVIL)
    table = tables.Table((EVIL,), ((EVIL,),), EVIL, EVIL)
    photos = PhotoGroup(EVIL, [Photo(np.zeros((8, 8), np.uint8), EVIL), Photo(None, EVIL)])
    section = Section(EVIL, [EVIL], [EVIL], [picture], [table], [photos])
    marks = [Mark(EVIL, EVIL, True)]
    reader = Reader(render_report(Report(EVIL, EVIL, marks, {EVIL: EVIL}, [EVIL], [section], {EVIL: EVIL})))
    # Headline and title, subtitle, mark (2), key metric (2), warning, link, section (4), photos (3), table (4),
    # provenance (2).
    assert reader.texts.count(EVIL) == 2 + 1 + 2 + 2 + 1 + 1 + 4 + 3 + 4 + 2
    assert [attributes["alt"] for tag, attributes in reader.tags if tag == "img"] == [EVIL, EVIL]
    assert "script" not in {tag for tag, _ in reader.tags}


def test_marks_differ_by_what_they_say() -> None:
    marks = [Mark("a", "bad", True), Mark("b", "good", False), Mark("c", "no answer", None)]
    reader = Reader(render_report(Report("x", marks=marks)))
    classes = [attributes["class"] for tag, attributes in reader.tags if (attributes.get("class") or "")[:5] == "mark "]
    assert classes == ["mark warns", "mark good"]
    assert sum(attributes.get("class") == "mark" for _, attributes in reader.tags) == 1


def test_empty_report() -> None:
    page = render_report(Report("Nothing"))
    assert Reader(page).texts.count("Nothing") == 2
    assert "<h1>Nothing</h1>" in page
    assert "<nav>" not in page


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be written: File exists \("), output_folder(tmp_path / "file"):
        pass


@pytest.mark.parametrize("missing", [False, True])
def test_tables_have_a_cell_for_every_column(missing: bool, tmp_path: Path) -> None:
    predictions = make_predictions(missing=missing)
    found = estimate(predictions, 20)
    shown = {
        "overall": tables.overall_table({"plain": found, "calibrated": found}),
        "class": tables.class_table(found),
        "operating": tables.operating_table(make_result(tmp_path).thresholds),
        "published": tables.published_table("this run", found, "covid-19", "a test"),
        "published, no COVID-19": tables.published_table("this run", found, None, "a test"),
        "comparison": tables.comparison_table(compare(predictions, predictions, ("A", "B"), 10)),
        "folds": tables.fold_values_table(fold_table({"0": predictions, "1": predictions})),
    }
    for name, table in shown.items():
        assert all(len(row) == len(table.header) for row in table.rows), name
    cells = {name: {row[0]: row[1:] for row in table.rows} for name, table in shown.items()}
    accuracy = found.intervals["accuracy"]
    assert cells["overall"]["accuracy"] == (accuracy.text(percent=True),) * 2
    assert cells["class"]["test images"] == ("8", "30", "0" if missing else "30")
    assert cells["class"]["sensitivity"][0] == found.intervals["sensitivity/covid-19"].text(percent=True)
    assert cells["published"]["this run"][1].endswith(", 8 images of 4 patients")
    assert cells["published, no COVID-19"]["this run"][1] == "no such class"
    assert cells["folds"]["accuracy"] == (*[f"{accuracy.value:.3f}"] * 3, "0.000")
    assert cells["comparison"]["accuracy"][2].startswith("0.0 %")
    note = shown["operating"].note
    assert "PPV and NPV at a prevalence of covid-19 5 %. No other" in note
    assert "share of each class in the test images: covid-19 11.8 %." in note
    assert "not defined" not in str(shown["operating"].rows)
    assert ("fewer than 30" in shown["class"].note, "warning" in cells["class"]) == (True, False)


def test_console_table_shows_markup_as_text() -> None:
    table = tables.Table(("[b]name[/b]", "n"), (("[red]x[/red]", "9"), ("y", "1,234")), "[i]title[/i]", "[link=x]note")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(tables.console_table(table))
    lines = capture.get().splitlines()
    assert "[i]title[/i]" in lines[0]
    assert "[b]name[/b]" in lines[2]
    assert "[red]x[/red]" in lines[4]
    assert "│     9 │" in lines[4], "numbers are right-justified"
    assert "[link=x]note" in lines[-1]


def test_html_and_tables_import_neither_torch_nor_configuration() -> None:
    code = (
        "import sys, covid_xray.reporting.html\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print([name for name in ('torch', 'lightning', 'hydra', 'omegaconf') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
