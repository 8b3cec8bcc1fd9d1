"""The command that shows a data set on one page."""

from pathlib import Path

from tiny_run import InProcess, command, mistake

__all__ = ["command"]


def test_show_writes_the_same_page_again(command: InProcess, workplace: Path) -> None:
    line = "show data=phantom_tiny shown=2"
    pages = []
    for name in ("first", "second"):
        code, out, err = command(f"{line} output=shown/{name}.html")
        assert code == 0, err
        assert out.splitlines()[-1] == f"Contact sheet: shown/{name}.html"
        assert out.splitlines()[-2].startswith("92 images; 0 leaks between splits, ")
        pages.append((workplace / "shown" / f"{name}.html").read_text())
    assert pages[0] == pages[1]
    for title in ("Classes", "Sources", "Splits", "Suspected duplicates", "Rejected files"):
        assert f"<h2>{title}</h2>" in pages[0]
    assert [pages[0].count(f"<h3>{split}: ") for split in ("train", "val", "test")] == [1, 1, 1]


def test_mistakes(command: InProcess) -> None:
    data = "show data=phantom_tiny"
    mistake(command(f"{data} output=."), "output must be a file whose name ends in .html, not '.'")
    mistake(command(f"{data} shown=some"), "shown must be a whole number of at least 1, not 'some'")
    mistake(command(f"{data} duplicates=-1"), "duplicates must be a whole number of at least 1, not -1")
    mistake(command("show data=manifest data.manifest=x.csv"), "x.csv does not exist")
    mistake(command("show data=folder"), "data.root must be given")
