"""Jobs of a sweep: planned, started, failed, and read from their run folders; and the table."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import wilson_interval
from covid_xray.runs.folder import seconds_spent
from covid_xray.sweeps.jobs import fail_job, read_sweep, start_job, write_plan
from covid_xray.sweeps.table import report_jobs, setting_text, shown_metrics, sweep_csv

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
    write(tmp_path / "seed=2", 30, metrics_json=METRICS, runtime_json={"seconds": 61.25, "begun": None})
    write(tmp_path / "lr=2", 50)
    write(tmp_path / "lr=1", 60)
    (tmp_path / ".submitit").mkdir()
    return tmp_path


def test_status_and_order(sweep: Path) -> None:
    runs = read_sweep(sweep)
    assert [(run.folder.name, run.status) for run in runs] == [
        ("seed=2", "finished"),
        ("seed=1", "failed"),  # finished, then started again and failed
        ("seed=0", "missing"),
        ("lr=2", "partial"),
        ("lr=1", "partial"),
    ]
    assert runs[1].error == "no such file"
    assert runs[0].overrides == {"seed": "2"}
    assert runs[0].metrics == METRICS


def test_intervals_of_proportions(sweep: Path) -> None:
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


def test_time_of_killed_sessions_counts_to_the_newest_checkpoint(tmp_path: Path) -> None:
    assert seconds_spent(tmp_path) is None
    (tmp_path / "runtime.json").write_text(json.dumps({"seconds": 10.0, "begun": 1000.0}))
    assert seconds_spent(tmp_path) == 10
    last = tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    for modified, expected in ((1030, 40), (900, 10)):  # after and before the start of this session
        os.utime(last, (modified, modified))
        assert seconds_spent(tmp_path) == expected


def test_a_job_from_plan_to_failure_and_a_new_start(tmp_path: Path) -> None:
    assert write_plan(tmp_path, [["seed=0", "name=x"], ["seed=1", "name=x"]], ["name"]) == 2
    assert [run.status for run in read_sweep(tmp_path)] == ["missing", "missing"]
    folder = tmp_path / "seed=1"
    folder.mkdir()
    start_job(folder, ["seed=1"])
    begun = (folder / "job.json").read_text()
    fail_job(folder, "out of memory", "Traceback ...")
    assert [(run.status, run.error) for run in read_sweep(tmp_path)] == [("missing", None), ("failed", "out of memory")]
    start_job(folder, ["seed=1"])
    assert [run.status for run in read_sweep(tmp_path)] == ["missing", "partial"]
    assert (folder / "job.json").read_text() == begun, "the order of jobs is that of their first start"


def test_report_of_a_sweep_that_ended(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_jobs(sweep, "val/loss", planned=3) == 1
    assert len((sweep / "sweep.csv").read_text().splitlines()) == 1 + 3, "jobs of earlier commands are left out"
    out, err = capsys.readouterr()
    assert "seed=2" in out
    assert err == "covid-xray: seed=1 failed: no such file\n"
    assert report_jobs(sweep / ".submitit", "val/loss", planned=0) == 0, "no job started"


def test_settings_that_look_like_markup_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, [["x.trains=[head]"], ["x.trains=[body]"]], [])
    report_jobs(tmp_path, "val/loss", planned=2)
    assert "[head]" in capsys.readouterr().out


def test_settings_of_a_narrow_table() -> None:
    assert setting_text("schedule.phases.a.max_lr", "0.00044303752452") == "a.max_lr=0.000443"
    assert setting_text("data.manifest", "long-name.csv") == "data.manifest=long-name.csv"


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="differ in nothing"):
        write_plan(tmp_path, [["seed=1", "name=x"], ["seed=1", "name=y"]], ["name"])
    with pytest.raises(UserError, match="is no sweep"):
        read_sweep(tmp_path)
    (tmp_path / "jobs.json").write_text("{")
    with pytest.raises(UserError, match=r"jobs\.json is damaged"):
        read_sweep(tmp_path)
