"""The report of a sweep: of one that was run, and of copies of it with other settings, figures and fates."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from drawn import xs
from tiny_run import InProcess, command, mistake
from tiny_sweep import RATE, tiny_sweep

from covid_xray.errors import UserError
from covid_xray.reporting.sweep_plots import leak_figure, leaked_runs
from covid_xray.reporting.sweep_tables import settings_text, varied_keys
from covid_xray.sweeps.jobs import read_sweep
from covid_xray.sweeps.learning_curves import read_curves

__all__ = ["command", "tiny_sweep"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def grid(tiny_sweep: Path) -> Path:
    """Three rates by two seeds, with known accuracies; of the last rate one run failed and one was never begun."""
    source = next(tiny_sweep.glob("*/metrics.json")).parent
    folder = tiny_sweep.parent / "grid"
    shutil.rmtree(folder, ignore_errors=True)
    final = json.loads((source / "metrics.json").read_text())
    right = {("1e-3", 0): 10, ("1e-3", 1): 12, ("1e-4", 0): 15, ("1e-4", 1): 17}
    jobs = {}
    for number, (rate, seed) in enumerate((rate, seed) for rate in ("1e-3", "1e-4", "1e-2") for seed in (0, 1)):
        run = folder / f"job{number}"
        overrides = {"experiment": "tiny", RATE: rate, "seed": str(seed)}
        jobs[run.name] = overrides
        if number == 5:
            continue
        shutil.copytree(source, run, ignore=shutil.ignore_patterns("checkpoints"))
        (run / "job.json").write_text(json.dumps({"overrides": overrides, "begun": float(number)}))
        (run / "metrics.json").unlink()
        if number == 4:
            (run / "failure.txt").write_text("the loss is <not> a number\n")
        else:
            accuracy = right[rate, seed] / 20
            figures = {**final, "test/accuracy": accuracy, "test/images": 20.0}
            (run / "metrics.json").write_text(json.dumps(figures))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return folder


def cells(page: str) -> list[list[str]]:
    """Text of every table row."""
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_a_sweep_that_was_run(command: InProcess, tiny_sweep: Path) -> None:
    code, out, err = command(f"report sweep={tiny_sweep}")
    assert (code, err) == (0, ""), err
    folder = tiny_sweep / "report"
    page = (folder / "report.html").read_text()
    assert "max_lr=0.001" in page
    assert "max_lr=0.01" in page
    assert str(folder / "report.html") in out
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        final = next(
            json.loads(path.read_text())
            for path in tiny_sweep.glob("*/metrics.json")
            if json.loads((path.parent / "job.json").read_text())["overrides"][RATE] == row[RATE]
        )
        assert float(row["test/accuracy"]) == pytest.approx(final["test/accuracy"], rel=1e-5)
        assert float(row["val/loss"]) == pytest.approx(final["val/loss"], rel=1e-5)
        assert float(row["test/accuracy low"]) < float(row["test/accuracy"]) < float(row["test/accuracy high"])
        assert float(row["seconds"]) > 0
    assert len(rows) == 2
    for name in ("ranking.png", "curves.png"):
        assert (folder / name).read_bytes().startswith(PNG)
    assert not (folder / "settings.png").exists(), "two values make no curve"


def test_repeated_runs_are_taken_together(command: InProcess, grid: Path) -> None:
    code, _, err = command(f"report sweep={grid}")
    assert (code, err) == (0, ""), err
    rows = cells((grid / "report/report.html").read_text())
    best, second, last = (row for row in rows if row[0].startswith("unfrozen_small.max_lr=") and "of 2" in row[1])
    assert best == ["unfrozen_small.max_lr=1e-4", "2 of 2", "80.0 %", "7.1 %", "75.0 % to 85.0 %"]
    assert second == ["unfrozen_small.max_lr=1e-3", "2 of 2", "55.0 %", "7.1 %", "50.0 % to 60.0 %"]
    assert last[:3] == ["unfrozen_small.max_lr=1e-2", "0 of 2", "none finished"]
    # 10 of 20: Wilson's limits are 0.2993 and 0.7007.
    assert any("50.0 % (29.9 to 70.1 %)" in row for row in rows)
    told = {row[0]: row[1] for row in rows if row[0].startswith("unfrozen_small") and "seed=" in row[0]}
    assert sorted(told.values()) == ["failed", *["finished"] * 4, "missing"]
    assert (grid / "report/settings.png").read_bytes().startswith(PNG)


def test_the_page_needs_nothing_else(command: InProcess, grid: Path) -> None:
    code, _, err = command(f"report sweep={grid} output=elsewhere")
    assert (code, err) == (0, ""), err
    page = (grid.parents[2] / "elsewhere/report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"<script|<link|https?://|url\(", page)
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    assert "the loss is &lt;not&gt; a number" in page
    assert "2 of 6 runs are not finished" in page
    assert "is partly luck" in page


def test_another_metric(command: InProcess, grid: Path) -> None:
    code, out, err = command(f"report sweep={grid} metric=val/loss")
    assert (code, err) == (0, ""), err
    assert "mean val/loss" in " ".join(out.split())
    assert "luck" not in (grid / "report/report.html").read_text()


def test_leak_beside_the_corrected_figure(command: InProcess, grid: Path) -> None:
    file = grid / "job0/metrics.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"unseen/accuracy": 0.4, "unseen/images": 20.0, "leaks": 3.0}))
    run = next(run for run in read_sweep(grid) if run.folder.name == "job0")
    runs = read_sweep(grid)
    axis = leak_figure(leaked_runs(runs), varied_keys(runs)).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [settings_text(run, varied_keys(runs))]
    dots = [xs(line)[0] for line in axis.lines if line.get_marker() == "o" and xs(line)]
    assert dots == [run.metrics["test/accuracy"], 0.4], "one run, leaked and corrected"
    assert len(axis.collections) == 2, "an interval each"
    assert command(f"report sweep={grid}")[0] == 0
    assert (grid / "report/leak.png").read_bytes().startswith(PNG)
    file.write_text(before)
    assert command(f"report sweep={grid}")[0] == 0
    assert not (grid / "report/leak.png").exists(), "it would be of another sweep"


def test_curves_are_what_was_logged(tiny_sweep: Path) -> None:
    for file in tiny_sweep.glob("*/metrics.json"):
        final = json.loads(file.read_text())
        curves = read_curves(file.parent, ["val/loss", "no/such"])
        assert list(curves["val/loss"]) == [1, 2]
        assert curves["val/loss"][int(final["epoch"]) + 1] == pytest.approx(final["val/loss"])
        assert curves["no/such"] == {}


def test_runs_of_earlier_versions_have_no_curves(command: InProcess, grid: Path) -> None:
    files = sorted(grid.glob("job[0-3]/curves.csv"))
    texts = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    with pytest.raises(UserError, match=r"curves\.csv does not exist"):
        read_curves(grid / "job0", ["val/loss"])
    code, _, err = command(f"report sweep={grid}")
    assert (code, err) == (0, ""), err
    assert "4 of 6 runs have no curves.csv" in (grid / "report/report.html").read_text()
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)


def test_mistakes(command: InProcess, grid: Path) -> None:
    mistake(command("report"), "must name a sweep's folder")
    mistake(command("report sweep=nowhere"), "sweep=nowhere is no folder")
    mistake(command(f"report sweep={grid.parent}"), "is no sweep")
    mistake(command(f"report sweep={grid} metric=test/luck"), "they have ")
    mistake(command(f"report sweep={grid} output={grid}/jobs.json"), "cannot be written")
    for file in grid.glob("*/metrics.json"):
        file.unlink()
    mistake(command(f"report sweep={grid}"), "nothing to compare yet")
