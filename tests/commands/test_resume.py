"""A run that is killed and continued ends exactly as one that was left alone."""

import random
import signal
from pathlib import Path

import pytest
import torch
from conftest import Command
from torch import Tensor

STEPS = 42  # of experiment=tiny: 7 + 7 + 14 + 14
SETTINGS = ("train", "experiment=tiny", "logger=none", "+callbacks.kill._target_=killing.KillAtStep")


@pytest.fixture(scope="module")
def whole(covid_xray: Command, workplace: Path) -> dict[str, object]:
    """The final state of a run that nobody disturbed, without loader workers."""
    result = covid_xray(*SETTINGS, "run_dir=whole", "data.num_workers=0", env=_env())
    assert result.returncode == 0, result.stderr
    return _final(workplace / "whole")


@pytest.mark.parametrize(
    ("workers", "every_minutes"), [(0, "null"), (2, "null"), (2, "1e-6")], ids=["0-workers", "2-workers", "mid-epoch"]
)
def test_kills_change_nothing(
    covid_xray: Command, workplace: Path, whole: dict[str, object], workers: int, every_minutes: str
) -> None:
    run = f"killed-{workers}-{every_minutes}"
    arguments = (*SETTINGS, f"run_dir={run}", f"data.num_workers={workers}", f"checkpoint.every_minutes={every_minutes}")
    draw = random.Random(run)
    steps = [draw.randrange(1, 7), draw.randrange(8, 14), draw.randrange(15, 28), draw.randrange(29, STEPS)]
    for step in steps:
        result = covid_xray(*arguments, env=_env(step))
        assert result.returncode == -signal.SIGKILL, result.stderr
    result = covid_xray(*arguments, env=_env())
    assert result.returncode == 0, result.stderr
    assert _differences(whole, _final(workplace / run)) == []


def test_sigterm_saves_within_the_epoch(covid_xray: Command, workplace: Path, whole: dict[str, object]) -> None:
    arguments = (*SETTINGS, "run_dir=stopped", "data.num_workers=2")
    result = covid_xray(*arguments, env={**_env(18), "SIGNAL": str(int(signal.SIGTERM))})
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert "The same command continues" in result.stdout
    last = torch.load(workplace / "stopped/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 19
    result = covid_xray(*arguments, env=_env())
    assert result.returncode == 0, result.stderr
    assert _differences(whole, _final(workplace / "stopped")) == []


def _env(step: int = -1) -> dict[str, str]:
    tests = str(Path(__file__).parents[1])
    return {"KILL_AT_STEP": str(step), "PYTHONPATH": f"{Path(tests).parent}:{tests}"}


def _final(run: Path) -> dict[str, object]:
    state: dict[str, object] = torch.load(run / "final-0.pt", weights_only=True)
    return state


def _differences(a: object, b: object, where: str = "") -> list[str]:
    """Places where two nested states differ in any bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys"]
        return [place for key in a for place in _differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        pairs = zip(a, b, strict=True)
        return [place for i, (x, y) in enumerate(pairs) for place in _differences(x, y, f"{where}[{i}]")]
    return [] if a == b else [f"{where}: {a} != {b}"]
