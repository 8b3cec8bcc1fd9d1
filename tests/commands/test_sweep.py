"""Sweeps: failures and kills lose no finished job, and the same command runs the rest."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from conftest import TESTS, Command, differences, load_state
from small_network import SMALL_NETWORK
from tiny_run import InProcess, command, mistake  # noqa: F401 fixture

from covid_xray import cli
from covid_xray.runs.folder import NON_RESULT_KEYS
from covid_xray.sweeps.jobs import read_sweep

KILL = "+callbacks.kill._target_=probe_callbacks.KillAtStep"
AT_20 = {"KILL_AT_STEP": "20"}


def status(folder: Path) -> list[str]:
    return [run.status for run in read_sweep(folder)]


def test_failure_and_kill_lose_nothing(
    covid_xray: Command,
    command: InProcess,  # noqa: F811
    workplace: Path,
) -> None:
    settings = ("experiment=tiny", SMALL_NETWORK, "logger=none", KILL)
    arguments = ("train", "-m", *settings, "seed=-1,0,-2", "hydra.sweep.dir=killed@sweep")
    folder = workplace / "killed@sweep"
    killed = covid_xray(*arguments, env=AT_20)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert status(folder) == ["failed", "partial", "missing"]
    again = covid_xray(*arguments)
    assert again.returncode == 2, again.stderr
    assert "Continuing: " in again.stdout
    runs = read_sweep(folder)
    assert [run.status for run in runs] == ["failed", "finished", "failed"]
    assert [run.overrides["seed"] for run in runs] == ["-1", "0", "-2"]
    assert runs[1].seconds is not None
    assert runs[1].seconds > 0
    accuracy = runs[1].interval("val/accuracy")
    assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
    assert (folder / "sweep.csv").read_text().count("\n") == 4
    for text in ("finished", f"{accuracy.low:.3f}", "seed=-2"):
        assert text in again.stdout
    assert "seed=-2 failed: seed must be" in again.stderr
    assert "2 of the sweep's jobs failed" in again.stderr
    assert "Traceback" not in again.stderr
    before = (runs[1].folder / "checkpoints/last.ckpt").stat().st_mtime_ns
    code, out, err = command(" ".join([*arguments[:-2], "seed=0", arguments[-1]]))
    assert code == 0, err
    assert "is finished" in out
    assert (runs[1].folder / "checkpoints/last.ckpt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_study_continues_with_the_interrupted_trial(covid_xray: Command, workplace: Path) -> None:
    arguments = ("train", "-m", "sweep=optuna", "experiment=tiny", "logger=none", KILL, "hydra.sweep.dir=study")
    killed = covid_xray(*arguments, "hydra.sweeper.n_trials=1", env=AT_20)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = covid_xray(*arguments, "hydra.sweeper.n_trials=1")
    assert again.returncode == 0, again.stderr
    assert status(workplace / "study") == ["finished"]
    storage = f"sqlite:///{workplace / 'study/optuna.db'}"
    study = optuna.load_study(storage=storage, study_name="val/loss")
    first, second = study.trials
    assert first.params == second.params
    assert second.value == read_sweep(workplace / "study")[0].metrics["val/loss"]


def test_study_in_which_all_trials_fail(command: InProcess, workplace: Path) -> None:  # noqa: F811
    settings = "hydra.sweeper.n_trials=2 hydra.sweep.dir=failed-study"
    code, out, err = command(f"train -m sweep=optuna experiment=tiny seed=-1 objective=val/accuracy {settings}")
    assert code == 2
    assert err.endswith("2 of the sweep's jobs failed; the same command runs them again and skips finished jobs\n")
    assert "Traceback" not in out + err
    study = optuna.load_study(storage=f"sqlite:///{workplace / 'failed-study/optuna.db'}", study_name="val/accuracy")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    assert study.direction.name == "MAXIMIZE"


def test_a_loss_that_is_not_finite_fails_its_job(command: InProcess, workplace: Path) -> None:  # noqa: F811
    line = "train -m experiment=tiny logger=none seed=0,1 schedule.lr_scale=1e30"
    code, out, err = command(f"{line} {SMALL_NETWORK} hydra.sweep.dir=not-finite")
    assert code == 2
    assert "Traceback" not in out + err
    assert err.endswith("2 of the sweep's jobs failed; the same command runs them again and skips finished jobs\n")
    runs = read_sweep(workplace / "not-finite")
    assert [run.status for run in runs] == ["failed", "failed"]
    for run in runs:
        assert re.match(r"the (training|validation) loss is (nan|inf) in step \d+ of epoch 1 \(phase", run.error or "")
        assert not (run.folder / "metrics.json").exists()


@pytest.mark.slow
def test_study_in_which_no_loss_is_finite(command: InProcess, workplace: Path) -> None:  # noqa: F811
    settings = "hydra.sweeper.n_trials=2 hydra.sweep.dir=not-finite-study logger=none"
    code, out, err = command(f"train -m sweep=optuna experiment=tiny schedule.lr_scale=1e30 {settings}")
    assert code == 2
    assert "Traceback" not in out + err
    assert "loss is" in err
    assert err.endswith("2 of the sweep's jobs failed; the same command runs them again and skips finished jobs\n")


@pytest.mark.slow
def test_sigterm_stops_a_sweep_which_continues(covid_xray: Command, workplace: Path) -> None:
    settings = ("experiment=tiny", "logger=none", KILL)
    arguments = ("train", "-m", *settings, "seed=0,1", "hydra.sweep.dir=terminated")
    stopped = covid_xray(*arguments, env={**AT_20, "SIGNAL": str(int(signal.SIGTERM))})
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert status(workplace / "terminated") == ["partial", "missing"]
    again = covid_xray(*arguments)
    assert again.returncode == 0, again.stderr
    assert status(workplace / "terminated") == ["finished", "finished"]
    alone = covid_xray("train", *settings, "seed=0", "run_dir=alone")
    assert alone.returncode == 0, alone.stderr
    first = read_sweep(workplace / "terminated")[0].folder
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (first, workplace / "alone")]
    assert differences(states[0]["state_dict"], states[1]["state_dict"]) == []


def test_names_leave_out_settings_that_change_no_result() -> None:
    settings = yaml.safe_load((cli.config_dir() / "settings/hydra.yaml").read_text())
    assert settings["hydra"]["job"]["config"]["override_dirname"]["exclude_keys"] == ["sweep", "name", *NON_RESULT_KEYS]


JOBS = {"rates": 2, "sizes": 3, "seeds": 5, "folds": 5, "learning_rates": 5}
SLOW = ("seeds", "folds", "learning_rates")  # many jobs to compose


@pytest.mark.parametrize("overlay", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in JOBS])
def test_overlays(command: InProcess, workplace: Path, overlay: str) -> None:  # noqa: F811
    # Each job is composed and then refused at once, which is fast and tests more than the plan.
    code, _, err = command(f"train -m sweep={overlay} experiment=tiny resume=no-such hydra.sweep.dir=over/{overlay}")
    assert code == 2
    runs = read_sweep(workplace / "over" / overlay)
    assert len(runs) == JOBS[overlay]
    assert {run.error for run in runs} == {"resume must be auto or never, not 'no-such'"}
    assert f"{JOBS[overlay]} of the sweep's jobs failed" in err


MISTAKES = {
    "overlay without -m": ("train sweep=seeds", "needs -m"),
    "unknown overlay": ("train -m sweep=nothing", "use one of folds"),
    "unknown setting": ("train -m seed=0,1 foo=1", "foo"),
    "run_dir": ("train -m experiment=tiny seed=0,1 run_dir=x", "hydra.sweep.dir"),
    "equal jobs": (
        "train -m experiment=tiny datamodule.num_workers=0,2 hydra.sweep.dir=m1",
        "differ in nothing",
    ),
    "subprocess DDP": ("train -m experiment=tiny trainer=ddp seed=0,1", "trains on one device here"),
    "two devices": ("train -m experiment=tiny trainer.devices=2 seed=0,1", "trains on one device here"),
    "objective": ("train experiment=tiny objective=val/acc", "objective='val/acc'"),
    "storage": (
        "train -m sweep=optuna experiment=tiny hydra.sweep.dir=m2 hydra.sweeper.storage=sqlite:////nowhere/x.db",
        "hydra.sweeper.storage",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(command: InProcess, name: str) -> None:  # noqa: F811
    line, expected = MISTAKES[name]
    mistake(command(line), expected)


def test_sweep_over_devices_fails_by_job(command: InProcess) -> None:  # noqa: F811
    code, _, err = command("train -m experiment=tiny seed=-1 trainer.devices=1,2 hydra.sweep.dir=devices")
    assert code == 2
    assert "trainer.devices=2 failed: a job of a sweep trains on one device here" in err
    assert "trainer.devices=1 failed: seed must be" in err


def test_folder_in_use_is_refused(command: InProcess, workplace: Path) -> None:  # noqa: F811
    folder = workplace / "in-use"
    (folder / "sweep").mkdir(parents=True)
    hold = (
        "import sys; from pathlib import Path; from covid_xray.files import lock; "
        "files = [lock(Path(name) / '.lock') for name in sys.argv[1:]]; print('held', flush=True); sys.stdin.read()"
    )
    command_line = [sys.executable, "-c", hold, str(folder), str(folder / "sweep")]
    holder = subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        mistake(command("train experiment=tiny run_dir=in-use"), "another process is training in")
        mistake(command("train -m experiment=tiny seed=0,1 hydra.sweep.dir=in-use/sweep"), "another sweep runs in")
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
def test_spot_machine_that_stops_several_times(covid_xray: Command, workplace: Path) -> None:
    """SIGTERM at any moment, also during imports; the loop of docs/cluster.md ends with the same weights as one run."""
    arguments = ["train", "experiment=tiny", "logger=none", "+callbacks.dump._target_=probe_callbacks.StateDump"]
    assert covid_xray(*arguments, "run_dir=undisturbed").returncode == 0
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    draw = random.Random(0)
    patience, stops = 3.0, 0
    while True:
        start = [sys.executable, "-m", "covid_xray", *arguments, "run_dir=spot"]
        process = subprocess.Popen(start, cwd=workplace, env=environment, stdout=subprocess.DEVNULL)
        time.sleep(patience * draw.uniform(0.5, 1))
        process.terminate()
        code = process.wait(timeout=120)
        if code == 0:
            break
        assert code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        stops += 1
        patience *= 1.3  # so that the loop ends on slow machines too
    assert stops >= 2
    final = "state-epoch3-rank0.pt"
    assert differences(load_state(workplace / "undisturbed" / final), load_state(workplace / "spot" / final)) == []
    clock = json.loads((workplace / "spot/runtime.json").read_text())
    assert clock["seconds"] > 0
