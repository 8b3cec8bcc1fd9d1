"""The script that kills runs at random moments runs, on few trials; its record is of runs that all end the same."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import TESTS

FOLDER = TESTS.parent / "experiments/kill_and_resume"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "--kills", "3", "--terms", "2"]
    command += ["--results", str(tmp_path / "results.csv"), "--folder", str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    trials = Counter(row["signal"] for row in rows(tmp_path / "results.csv"))
    assert trials["SIGKILL"] == 3
    assert trials["SIGTERM"] == 2


def test_the_record_is_complete() -> None:
    record = rows(FOLDER / "results.csv")
    assert {row["verdict"] for row in record} == {"", "identical"}
    exits = Counter((row["signal"], row["exit"]) for row in record)
    assert set(exits) <= {("", "0"), ("SIGKILL", "137"), ("SIGTERM", "143"), ("SIGTERM", "0"), ("SIGKILL", "0")}
    assert sum(count for (name, _), count in exits.items() if name == "SIGKILL") >= 100
    assert sum(count for (name, _), count in exits.items() if name == "SIGTERM") >= 40
