"""The executable: help, quick answers, completion, and that a wheel brings everything along."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from conftest import TESTS, Command

REPOSITORY = TESTS.parent


def test_help_lists_the_commands_at_once(covid_xray: Command) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = covid_xray("--help")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 0
    for name in ("train", "find-lr"):
        assert f"\n  {name} " in result.stdout
    assert "not a medical device" in result.stdout
    assert min(seconds) < 1


def test_mistake_in_an_override_is_told_without_importing_torch(covid_xray: Command) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = covid_xray("train", "schedule=artcle")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 2
    assert "artcle" in result.stderr
    assert min(seconds) < 2  # below 1 on an idle machine; an import of torch alone takes longer than this
    listed = covid_xray("train", "schedule=artcle", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "| torch\n" not in listed.stderr


def test_cfg_shows_the_composed_configuration(covid_xray: Command) -> None:
    result = covid_xray("train", "experiment=article", "--cfg", "job")
    assert result.returncode == 0
    assert "normalization: batch" in result.stdout
    assert "select: last" in result.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("covid-xray tr", "train"),
        ("covid-xray train schedule=", "schedule=article"),
        ("covid-xray train data=ma", "data=manifest"),
        ("covid-xray find-lr ste", "steps="),
    ],
)
def test_completion_in_a_real_bash(tmp_path: Path, line: str, expected: str) -> None:
    executable = tmp_path / "covid-xray"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} -m covid_xray "$@"\n')
    executable.chmod(0o755)
    script = f"""
    eval "$(covid-xray -sc install=bash)"
    COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    hydra_bash_completion
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert expected in result.stdout.split(), result.stderr


def test_wheel_trains_in_an_empty_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=REPOSITORY, check=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
        assert any(name == "covid_xray/conf/train.yaml" for name in wheel.namelist())
    empty = tmp_path / "empty"
    empty.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "covid_xray", "train", "experiment=tiny", "run_dir=run"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (empty / "run/metrics.json").is_file()
