"""The scripts that measure speed run, on small sizes."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import TESTS
from matplotlib.colors import to_rgb

from covid_xray.plots.classification import COLOURS

SPEED = TESTS.parent / "experiments/speed"
SMALL = [
    f"schedule.phases.{name}.{setting}"
    for name, size in (("frozen_small", 32), ("unfrozen_small", 32), ("frozen_large", 48), ("unfrozen_large", 48))
    for setting in (f"image_size={size}", "batch_size=8", "epochs=2")
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SPEED))
    import bench as module

    assert isinstance(module, ModuleType)
    return module


def test_phantoms_replace_real_images(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "REAL", tmp_path / "nowhere")
    monkeypatch.setattr(bench, "SPLITS", {"train": 4, "val": 3, "test": 2})
    bench.make_images(tmp_path / "images")
    found = [file.relative_to(tmp_path / "images").parts[0] for file in tmp_path.rglob("*.png")]
    assert sorted(found) == ["test"] * 2 + ["train"] * 4 + ["val"] * 3


def test_rows_of_other_scenarios_are_kept(bench: ModuleType, tmp_path: Path) -> None:
    lines = (SPEED / "results.csv").read_text(encoding="utf-8").splitlines()
    bench.write_table(tmp_path / "kept.csv", bench.read_others(SPEED / "results.csv", ["unfrozen 224"]))
    kept = [line for line in lines if not line.startswith("unfrozen 224,")]
    assert 1 < len(kept) < len(lines)
    assert (tmp_path / "kept.csv").read_text(encoding="utf-8").splitlines() == kept


def test_results_are_drawn(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import draw

    shutil.copy(SPEED / "results.csv", tmp_path)
    monkeypatch.setattr(draw, "HERE", tmp_path)
    draw.main()
    picture = plt.imread(tmp_path / "speed.png")
    blue = np.all(np.abs(picture[..., :3] - to_rgb(COLOURS[0])) < 0.02, axis=-1)
    assert blue.sum() > 1000, "the bars of covid-xray are missing"


@pytest.mark.slow
def test_contenders_take_turns(bench: ModuleType, tmp_path: Path) -> None:
    scenario = bench.Scenario("tiny", "", size=32, batch=2, images=2)
    commands = bench.contenders(scenario, None)[0]
    some = {name: commands[name] for name in ("bare loop, float32, contiguous_format", bench.CEILING)}
    rows = bench.compete(scenario, some, tmp_path / "work", repeats=2, seconds=0.1)
    assert [row["contender"] for row in rows] == list(some)
    assert rows[1]["of_ceiling"] == 1
    assert all(row["lowest"] <= row["images_per_second"] <= row["highest"] for row in rows)
    assert all(row["first_step_seconds"] > 0.5 and row["peak_mb"] > 100 for row in rows)


def test_profile_of_a_step(bench: ModuleType) -> None:
    import profile_step

    times = profile_step.step_times(bench.Scenario("tiny", "", size=32, batch=2, images=2), fast=True)
    assert times["convolution, backward"] > 0
    assert set(times) <= {*profile_step.KINDS, "everything else"}


def test_start_of_a_command_is_measured(bench: ModuleType, tmp_path: Path) -> None:
    import start

    for name in ("--help", "error in an override"):
        assert start.run(TESTS.parent, tmp_path, start.COMMANDS[name]) > 0
    with pytest.raises(SystemExit, match="is no command"):
        start.run(TESTS.parent, tmp_path, ("strain",))


@pytest.mark.slow
def test_article_scale(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    size = ("--images", "150", "--pixels", "64", "--dollars-per-hour", "36", "--output", str(table))
    command = [sys.executable, str(SPEED / "article_scale.py"), *size, "model=resnet18", *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with table.open() as file:
        *parts, whole = csv.DictReader(file)
    phases = [row for row in parts if row["epochs"]]
    assert [row["part"] for row in phases] == ["frozen_small", "unfrozen_small", "frozen_large", "unfrozen_large"]
    assert all(row["epochs"] == "2" and (row["images"], row["val_images"]) == ("120", "30") for row in phases)
    assert sum(float(row["seconds"]) for row in parts) == pytest.approx(float(whole["seconds"]), abs=0.5)
    assert float(whole["dollars"]) == pytest.approx(float(whole["seconds"]) / 100, abs=0.001)
