"""Text that forms formulas, markup or terminal codes is shown as it is, in figures, tables and files for people."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from covid_xray.data.folder import read_folder
from covid_xray.data.images.read import write_png
from covid_xray.data.records import check_text
from covid_xray.errors import UserError, printable
from covid_xray.files import spreadsheet_text
from covid_xray.plots.classification import confusion_matrix_figure, figure_png
from covid_xray.reporting.sweep_tables import results_csv
from covid_xray.reporting.tables import Table, console_table
from covid_xray.runs.prediction_file import list_images
from covid_xray.sweeps.jobs import SweepRun
from covid_xray.sweeps.table import sweep_csv, sweep_table


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
        *[(text, text) for text in ("-1", "+1.5e-3", "-.5", "", "a=b", "covid-19", "1e-3")],
    ],
)
def test_cells_that_a_spreadsheet_would_run(text: str, cell: str) -> None:
    assert spreadsheet_text(text) == cell


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
