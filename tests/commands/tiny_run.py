"""One tiny run for all tests of what comes after training, and commands within this process: no waiting for imports."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from hydra.core.global_hydra import GlobalHydra

from covid_xray import cli
from covid_xray.data.phantom import PhantomSet
from covid_xray.files import waiting_lock

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tiny_run(covid_xray: Command, workplace: Path, session_folder: Path) -> Path:
    """Folder of a finished run; tests may write into its evaluation folder, but change nothing else.

    The first worker trains, and the other one gets a copy. What the training printed is in ``tiny-run.txt``.
    """
    folder, master = workplace / "tiny-run", session_folder / "tiny-run-of-all"
    parts = ("data/phantoms", "data/audit", "data/cache", "tiny-run.txt", "tiny-run")
    with waiting_lock(session_folder / "tiny-run.lock", "trains"):
        if not master.is_dir():
            result = covid_xray("train", "experiment=tiny", "run_dir=tiny-run", timeout=600)
            assert result.returncode == 0, result.stderr
            assert "Traceback" not in result.stderr
            (workplace / "tiny-run.txt").write_text(result.stdout)
            copy_parts(parts, workplace, master)
    if not folder.is_dir():
        copy_parts(parts, master, workplace)
    return folder


def copy_parts(parts: tuple[str, ...], source: Path, target: Path) -> None:
    for part in parts:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target / part)


def phantom_manifest(workplace: Path) -> Path:
    """Manifest of the images of `tiny_run`."""
    return PhantomSet(patients=60, images_per_patient=2, size=64).manifest(workplace / "data/phantoms")


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    """Run a command line (and more arguments, which may contain blanks) in this process: exit code, output, errors."""

    def run(line: str, *more: str) -> tuple[int, str, str]:
        monkeypatch.chdir(workplace)
        monkeypatch.setattr(sys, "argv", ["covid-xray", *line.split(" "), *more])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        GlobalHydra.instance().clear()
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def mistake(result: tuple[int, str, str], expected: str) -> None:
    """Check that a command said one sentence and nothing else."""
    code, out, err = result
    assert code == 2, out + err
    assert err.startswith("covid-xray: ")
    assert expected in err
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err


def copy_run(run: Path, name: str, checkpoints: bool = True) -> Path:
    """A copy of a run that a test may damage; without its evaluations."""
    copy = run.with_name(name)
    shutil.rmtree(copy, ignore_errors=True)
    left_out = ["evaluation", "export", "calibration.json", *([] if checkpoints else ["*.ckpt"])]
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(*left_out, "events.*"))
    return copy


def numbers(folder: Path) -> dict[str, object]:
    """What an evaluation found."""
    found: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    return found
