"""A run that is killed and continued ends exactly as one that was left alone."""

import functools
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Command, differences, load_state
from small_network import SMALL_NETWORK

PHASE_STEPS = (range(1, 7), range(8, 14), range(15, 28), range(29, 42))  # of experiment=tiny; not the first of a phase
SETTINGS = (
    "train",
    "experiment=tiny",
    "logger=none",
    "+callbacks.kill._target_=probe_callbacks.KillAtStep",
    "+callbacks.dump._target_=probe_callbacks.StateDump",
)
RESNET = "model=resnet18"
FINAL = "state-epoch3-rank0.pt"
Whole = Callable[[str], dict[str, object]]


@pytest.fixture(scope="module")
def whole(covid_xray: Command, workplace: Path) -> Whole:
    """The final state of a run of a network that is not disturbed, without loader workers."""

    @functools.cache
    def train(network: str) -> dict[str, object]:
        folder = f"whole-{network.rpartition('.')[2]}"
        result = covid_xray(*SETTINGS, network, f"run_dir={folder}", "datamodule.num_workers=0")
        assert result.returncode == 0, result.stderr
        return load_state(workplace / folder / FINAL)

    return train


@pytest.mark.parametrize(
    ("network", "workers", "every_minutes", "phases"),
    [
        pytest.param(RESNET, 0, "null", (2,), id="0-workers", marks=pytest.mark.slow),
        pytest.param(SMALL_NETWORK, 2, "null", (1, 3), id="2-workers"),
        pytest.param(SMALL_NETWORK, 2, "1e-6", (0, 2), id="within-epochs"),
        pytest.param(RESNET, 0, "null", (0, 1, 2, 3), id="0-workers-all-phases", marks=pytest.mark.slow),
        pytest.param(RESNET, 2, "null", (0, 0, 1, 1, 2, 2, 3, 3), id="2-workers-all-phases", marks=pytest.mark.slow),
        pytest.param(
            RESNET, 2, "1e-6", (0, 0, 1, 1, 2, 2, 3, 3), id="within-epochs-all-phases", marks=pytest.mark.slow
        ),
    ],
)
def test_kills_change_nothing(
    covid_xray: Command,
    workplace: Path,
    whole: Whole,
    network: str,
    workers: int,
    every_minutes: str,
    phases: tuple[int, ...],
) -> None:
    run = f"killed-{workers}-{every_minutes}-{len(phases)}"
    arguments = (
        *SETTINGS,
        network,
        f"run_dir={run}",
        f"datamodule.num_workers={workers}",
        f"checkpoint.every_minutes={every_minutes}",
    )
    draw = random.Random(run)
    for step in sorted(draw.choice(PHASE_STEPS[phase]) for phase in phases):
        result = covid_xray(*arguments, env={"KILL_AT_STEP": str(step)})
        assert result.returncode == -signal.SIGKILL, result.stderr
        if every_minutes != "null" and step not in (7, 14, 28):
            last = torch.load(workplace / run / "checkpoints/last.ckpt", weights_only=True)
            assert last["global_step"] == step, "the checkpoint within the epoch was not the newest state"
    result = covid_xray(*arguments)
    assert result.returncode == 0, result.stderr
    assert differences(whole(network), load_state(workplace / run / FINAL)) == []


def test_sigterm_saves_within_the_epoch(covid_xray: Command, workplace: Path, whole: Whole) -> None:
    arguments = (*SETTINGS, SMALL_NETWORK, "run_dir=stopped", "datamodule.num_workers=2")
    result = covid_xray(*arguments, env={"KILL_AT_STEP": "18", "SIGNAL": str(int(signal.SIGTERM))})
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert "The same command continues" in result.stdout
    last = torch.load(workplace / "stopped/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 19
    result = covid_xray(*arguments)
    assert result.returncode == 0, result.stderr
    assert differences(whole(SMALL_NETWORK), load_state(workplace / "stopped" / FINAL)) == []


def test_finished_run_says_so_and_changed_one_is_refused(covid_xray: Command, workplace: Path, whole: Whole) -> None:
    whole(SMALL_NETWORK)
    before = (workplace / "whole-SmallNetwork" / FINAL).stat().st_mtime_ns
    again = covid_xray(*SETTINGS, SMALL_NETWORK, "run_dir=whole-SmallNetwork", "datamodule.num_workers=2")
    assert again.returncode == 0
    assert "is finished" in again.stdout
    changed = covid_xray(*SETTINGS, SMALL_NETWORK, "run_dir=whole-SmallNetwork", "optimizer.weight_decay=0.5")
    assert changed.returncode == 2
    assert "optimizer.weight_decay: 0.01 -> 0.5" in changed.stderr
    assert (workplace / "whole-SmallNetwork" / FINAL).stat().st_mtime_ns == before


@pytest.mark.slow
def test_compiled_run_resumes_and_agrees_with_a_plain_one(covid_xray: Command, workplace: Path) -> None:
    # Without dropout: compiled, it draws other numbers.
    settings = (*SETTINGS, "model.dropout=[0.0,0.0]", "trainer.precision=32-true")
    compiled = (*settings, "compile=default", "run_dir=compiled")
    for arguments in ((*settings, "run_dir=plain"), compiled):
        result = covid_xray(*arguments, timeout=900)
        assert result.returncode == 0, result.stderr
    whole = load_state(workplace / "compiled" / FINAL)
    assert differences(whole, load_state(workplace / "plain" / FINAL))
    losses = [json.loads((workplace / run / "metrics.json").read_text())["val/loss"] for run in ("compiled", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    stopped = (*compiled[:-1], "run_dir=compiled-killed")
    assert covid_xray(*stopped, env={"KILL_AT_STEP": "20"}, timeout=900).returncode == -signal.SIGKILL
    result = covid_xray(*stopped, timeout=900)
    assert result.returncode == 0, result.stderr
    assert differences(whole, load_state(workplace / "compiled-killed" / FINAL)) == []
