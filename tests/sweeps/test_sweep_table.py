"""A sweep read back from its run folders."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import wilson_interval
from covid_xray.sweeps.jobs import read_sweep, seconds_spent, shown_metrics, sweep_csv

METRICS = {"val/loss": 0.5, "val/accuracy": 0.8, "val/recall/normal": 0.75, "val/images": 10, "val/images/normal": 4}


def write(folder: Path, begun: float, **files: object) -> None:
    folder.mkdir(parents=True)
    overrides = dict(item.split("=") for item in folder.name.split(","))
    (folder / "job.json").write_text(json.dumps({"overrides": overrides, "begun": begun}))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("_", ".")).write_text(text)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    plan = {f"seed={seed}": {"seed": str(seed)} for seed in (2, 1, 0)}
    (tmp_path / "jobs.json").write_text(json.dumps(plan))
    write(tmp_path / "seed=1", 20, failure_txt="no such file\nTraceback ...", metrics_json=METRICS)
    write(tmp_path / "seed=2", 30, metrics_json=METRICS, seconds_json={"seconds": 61.25, "begun": None})
    write(tmp_path / "lr=2", 50)
    write(tmp_path / "lr=1", 60)
    (tmp_path / ".submitit").mkdir()
    return tmp_path


def test_status_and_order(sweep: Path) -> None:
    runs = read_sweep(sweep)
    assert [(run.folder.name, run.status) for run in runs] == [
        ("seed=2", "finished"),
        ("seed=1", "failed"),  # begun again, and failed, after it was finished
        ("seed=0", "missing"),
        ("lr=2", "partial"),
        ("lr=1", "partial"),
    ]
    assert runs[1].error == "no such file"
    assert runs[0].overrides == {"seed": "2"}
    assert runs[0].metrics == METRICS


def test_intervals_of_what_was_counted(sweep: Path) -> None:
    run = read_sweep(sweep)[0]
    assert run.interval("val/accuracy") == wilson_interval(8, 10)
    assert run.interval("val/recall/normal") == wilson_interval(3, 4)
    loss = run.interval("val/loss")
    assert loss.value == 0.5
    assert loss.low != loss.low
    assert shown_metrics("val/loss") == ["val/loss", "val/accuracy"]
    assert shown_metrics("test/recall/covid-19") == ["test/recall/covid-19"]


def test_csv(sweep: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(sweep_csv(read_sweep(sweep), "val/loss"))))
    assert [row["status"] for row in rows] == ["finished", "failed", "missing", "partial", "partial"]
    assert (rows[0]["val/loss"], rows[0]["val/loss low"], rows[0]["seconds"]) == ("0.5", "", "61.2")
    assert float(rows[0]["val/accuracy low"]) == pytest.approx(wilson_interval(8, 10).low, rel=1e-5)
    assert rows[1]["error"] == "no such file"


def test_time_of_killed_attempts_counts_to_the_newest_checkpoint(tmp_path: Path) -> None:
    assert seconds_spent(tmp_path) is None
    (tmp_path / "runtime.json").write_text(json.dumps({"seconds": 10.0, "begun": 1000.0}))
    assert seconds_spent(tmp_path) == 10
    last = tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    for modified, expected in ((1030, 40), (900, 10)):  # after and before this attempt was begun
        os.utime(last, (modified, modified))
        assert seconds_spent(tmp_path) == expected


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no sweep"):
        read_sweep(tmp_path)
    (tmp_path / "jobs.json").write_text("{")
    with pytest.raises(UserError, match=r"jobs\.json is damaged"):
        read_sweep(tmp_path)
