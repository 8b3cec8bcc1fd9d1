"""Text that forms formulas, markup or terminal codes is shown as it is, in figures, tables and files for people."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from covid_xray.data.datamodule import XrayDataModule
from covid_xray.data.folder import read_folder
from covid_xray.data.images.read import write_png
from covid_xray.data.importers import locate
from covid_xray.data.manifest import read_manifest
from covid_xray.data.prepare import prepare, rejected_files
from covid_xray.data.records import check_text
from covid_xray.data.split import assign_splits
from covid_xray.errors import UserError, printable
from covid_xray.files import original_text, spreadsheet_text
from covid_xray.metrics.predictions import Predictions, read_predictions, write_predictions
from covid_xray.plots.classification import confusion_matrix_figure, figure_png
from covid_xray.reporting.sweep_tables import results_csv
from covid_xray.reporting.tables import Table, console_table
from covid_xray.runs.config import read_splits
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.prediction_file import list_images
from covid_xray.schedule import Phase, Schedule
from covid_xray.sweeps.jobs import SweepRun
from covid_xray.sweeps.table import sweep_csv, sweep_table


def test_paths_of_a_publisher_change_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/\x1b[2J1.png").touch()
    assert locate(["old/\x1b[2J1.png"], tmp_path) == ["new/\x1b[2J1.png"]
    assert r"old/\x1b[2J1.png is new/\x1b[2J1.png" in capsys.readouterr().out


def test_a_figure_reads_no_formula() -> None:
    counts = np.eye(2, dtype=int)
    assert figure_png(confusion_matrix_figure(counts, ["$\\foo{$", "$\\frac{1}{0}$"]))
    # The dollars of a formula would not be drawn.
    formula, text = (figure_png(confusion_matrix_figure(counts, ["normal", name])) for name in ("$xx$", "xx"))
    assert formula != text


def test_terminal_shows_markup_and_codes() -> None:
    table = Table(("[/x]", "b"), (("\x1b[31mred\x07", "[bold]1\r2[/bold]"),), "caption [/y]\n", "note \x9b")
    run = SweepRun(Path("a"), {"seed": "\x1b[2J"}, "failed", {}, 1.0, "[/z]")
    other = SweepRun(Path("b"), {"seed": "1"}, "failed", {}, 1.0, "")
    output = io.StringIO()
    console = Console(file=output, width=100, highlight=False, markup=False, force_terminal=False)
    console.print(console_table(table))
    console.print(sweep_table([run, other], "val/accuracy"))
    shown = output.getvalue()
    for text in ("[/x]", r"\x1b[31mred\x07", r"[bold]1\r2[/bold]", r"caption [/y]\n", r"note \x9b", r"\x1b[2J"):
        assert text in shown, text
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(shown)
    assert printable("a\u202eb\udce9c ü") == r"a\u202eb\udce9c ü"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("'=1+1", "''=1+1"),  # or reading would make it =1+1
        *[(text, text) for text in ("-1", "+1.5e-3", "-.5", "", "a=b", "covid-19", "1e-3", "'a'")],
    ],
)
def test_cells_that_a_spreadsheet_would_run(text: str, cell: str) -> None:
    assert spreadsheet_text(text) == cell
    assert original_text(cell) == text


# Names as `check_text` accepts them; many look like formulas.
NAMES = st.text(st.sampled_from("'=+-@\"1.e,; xü")) | st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]))


def formulas(file: Path) -> list[str]:
    with file.open(newline="", encoding="utf-8") as rows:
        return [cell for row in csv.reader(rows) for cell in row if re.match(r"[=@]|[+-](?![\d.])", cell)]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(NAMES, min_size=6, max_size=6))
def test_texts_of_predictions_are_restored_and_are_no_formulas(tmp_path: Path, names: list[str]) -> None:
    assert [original_text(spreadsheet_text(name)) for name in names] == names
    classes, paths = [f"{names[0]}a", f"{names[1]}b"], [f"{names[2]}c", f"{names[3]}d"]
    predictions = Predictions.build([0, 1], [[0.1, 0.9], [1 / 3, 2 / 3]], classes, paths, names[4:])
    write_predictions(predictions, tmp_path / "predictions.csv")
    again = read_predictions(tmp_path / "predictions.csv")
    assert [list(again.class_names), list(again.images), list(again.patients)] == [classes, paths, names[4:]]
    assert np.array_equal(again.probabilities, predictions.probabilities)
    assert not formulas(tmp_path / "predictions.csv")


def test_tables_that_are_read_again_hold_no_formulas(tmp_path: Path) -> None:
    labels, output = ["=HYPERLINK(1)", "'@b"], tmp_path / "=prepared"
    for number in range(20):
        file = output / labels[number % 2] / f"-x{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, np.full((40, 40), 9 * number, np.uint8))
    broken = output / labels[0] / "+broken.png"
    broken.write_bytes(b"no image")
    prepared = prepare("folder", output, output, max_rejected=0.5)
    assert not formulas(output / "manifest.csv") + formulas(output / "rejected.csv")
    assert all(Path(path).is_file() for path in list_images(str(output / "manifest.csv")))
    records = read_manifest(output / "manifest.csv")
    assert set(records["label"]) == set(labels)
    assert rejected_files(records)["file"].tolist() == [str(broken)]
    columns = ["path", "label", "patient_id", "source"]
    assert records[columns].equals(prepared.accepted.sort_values("path")[columns].reset_index(drop=True))
    phase = Phase(image_size=32, batch_size=2, epochs=1, trains="head", max_lr=1e-3)
    records = assign_splits(records, by="image")
    data = XrayDataModule(records, Schedule({"only": phase}))
    folder = RunFolder(tmp_path)
    folder.write_splits(data.splits_csv())
    assert not formulas(folder.splits)
    columns.append("split")
    assert read_splits(folder)[columns].equals(records.sort_values("path")[columns].reset_index(drop=True))


def test_tables_of_a_sweep_hold_no_formula() -> None:
    run = SweepRun(Path("a"), {"=x": "=1+1", "lr": "-1"}, "failed", {"test/accuracy": -0.5}, 1.0, "@error")
    for text in (sweep_csv([run], "test/accuracy"), results_csv([run], "test/accuracy")):
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@"))]
        assert "'@error" in cells
        assert "-0.5" in cells


def test_paths_of_predictions_are_paths_and_no_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_png(Path("=1+1.png"), np.zeros((9, 9), np.uint8))
    for source in (".", "=1+1.png", "*.png"):
        (path,) = list_images(source)
        assert path == "./=1+1.png"
        assert Path(path).is_file()


@pytest.mark.parametrize(
    "name", ["covid\nLEAKED: none", "a\rb", "a\x1b[31m", "a\tb", "\u202enormal", "\udce9", "x" * 101]
)
def test_names_that_change_a_terminal_are_refused(name: str, tmp_path: Path) -> None:
    rows = {"path": ["a", "b"], "label": [name, "b"], "patient_id": ["1", "2"], "source": ["", ""]}
    table = pd.DataFrame(rows, dtype=object)
    with pytest.raises(UserError, match="rename it") as error:
        check_text(table)
    assert "\n" not in str(error.value)
    if len(name) <= 100:
        for column in ("path", "patient_id", "source"):
            row = {"label": ["x"], "path": "", "patient_id": "", "source": ""} | {column: [name]}
            table = pd.DataFrame(row, dtype=object)
            with pytest.raises(UserError, match=f"the {column} .* has a control character"):
                check_text(table)
        (tmp_path / "a").mkdir()
        write_png(tmp_path / "a" / "1.png", np.zeros((9, 9), np.uint8))
        (tmp_path / "a" / "1.png").rename(tmp_path / "a" / f"{name}.png")
        with pytest.raises(UserError, match=r"the path .* has a control character"):
            read_folder(tmp_path)


def test_ordinary_names_pass() -> None:
    names = ["COVID-19 (ü, é)", "正常", "a\u00a0b", "[x] $y$ =z <b> | 'q'"]
    check_text(pd.DataFrame({"path": names, "label": names, "patient_id": names, "source": names}))
