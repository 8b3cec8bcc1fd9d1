"""The executable: help, fast answers, messages, completion, own configurations, and a complete wheel."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import TESTS, Command
from tiny_run import InProcess, command, mistake

from covid_xray.cli import commands

__all__ = ["command"]
REPOSITORY = TESTS.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it is installed from a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(build, cwd=REPOSITORY, check=True, timeout=120)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run_installed(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed package in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "covid_xray", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("line", ["train experiment=tiny run_dir=limited", "find-lr experiment=tiny run_dir=limited"])
def test_little_address_space_is_refused_before_torch_is_imported(line: str, workplace: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limits of this kind")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9))

    command = [sys.executable, "-m", "covid_xray", *line.split()]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        command, cwd=workplace, env=environment, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    sentence = r"covid-xray: the memory of this process is limited to 3\.0 GB .* at least 5 GB; raise .*\n"
    assert re.fullmatch(sentence, result.stderr), result.stderr
    assert result.returncode == 2
    assert not (workplace / "limited").exists()


def test_help_lists_the_commands_without_importing_hydra(covid_xray: Command) -> None:
    result = covid_xray("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert result.returncode == 0
    for name in ("train", "find-lr"):
        assert f"\n  {name} " in result.stdout
    assert "not a medical device" in result.stdout
    assert not re.search(r"\| +(hydra|torch|numpy)\n", result.stderr)


def test_help_of_each_command_shows_its_settings_without_importing_hydra(covid_xray: Command) -> None:
    for name, text in commands().items():
        result = covid_xray(name, "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert result.returncode == 0
        assert text in result.stdout
        file = next((REPOSITORY / "conf").rglob(f"{name.replace('-', '_')}.yaml"))
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key in settings.keys() - {"defaults", "hydra"}:
            assert f"\n{key}: " in result.stdout or f"\n{key}:\n" in result.stdout, (name, key)
        for key in {"defaults", "hydra"}:
            assert f"\n{key}:" not in result.stdout
        assert not re.search(r"\| +(hydra|torch|numpy)\n", result.stderr)
    helped = covid_xray("train", "experiment=tiny", "-h").stdout
    assert "\nsampler=shuffled\n    balanced, batch_share, independent, shuffled\n" in helped
    assert "\nseed: 0  " in helped


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot remove the current folder")
def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    line = f"{sys.executable} -P -m covid_xray predict run=a input=b output=c.csv"
    script = f"mkdir gone && cd gone && rmdir ../gone && {line}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "covid-xray: the current folder does not exist any more" in result.stderr
    assert "Traceback" not in result.stderr


def test_mistake_in_an_override_is_reported_without_importing_torch(covid_xray: Command) -> None:
    result = covid_xray("train", "schedule=artcle", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert result.returncode == 2
    assert "artcle" in result.stderr
    assert re.search(r"\| +hydra\n", result.stderr)
    assert not re.search(r"\| +torch\n", result.stderr)


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


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("train seed=0,1", "; to sweep over it, add --multirun"),
        ("train foo=1", "; to append to your config use +foo=1"),
        ("train +seed=1", "; or add a second + to add or override 'seed': '++seed=1'"),
        ("train seed=[1", "; see https://hydra.cc/"),
        ("train name=${foo}", "hydra.run.dir: Interpolation key 'foo' not found"),
    ],
)
def test_messages_keep_advice(command: InProcess, line: str, advice: str) -> None:
    mistake(command(line), advice)


def test_own_configuration_beside_an_installed_package(installed: Path, tmp_path: Path) -> None:
    own = tmp_path / "my-conf/model/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [resnet18, _self_]\nhidden: 77\n")
    result = run_installed(installed, tmp_path, "train", "--config-dir", "my-conf", "model=mine", "--cfg", "job")
    assert result.returncode == 0, result.stderr
    assert "hidden: 77" in result.stdout
    assert "resnet18" in result.stdout, "own files may build on those of the package"
    wrong = run_installed(installed, tmp_path, "train", "--config-dir", "my-conf", "model=mime")
    assert wrong.returncode == 2
    assert "Could not find 'model/mime'; use one of " in wrong.stderr
    assert " mine, " in wrong.stderr


def test_wheel_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert (installed / "covid_xray/conf/train.yaml").is_file()
    phases = [f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")]
    result = run_installed(installed, tmp_path, "train", "experiment=tiny", *phases, "run_dir=run")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/metrics.json").is_file()
