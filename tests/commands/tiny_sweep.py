"""One small sweep of the real command for all tests of what reads sweeps."""

from pathlib import Path

import pytest
from conftest import Command

RATE = "schedule.phases.unfrozen_small.max_lr"


@pytest.fixture(scope="module")
def tiny_sweep(covid_xray: Command, workplace: Path) -> Path:
    """Folder of a finished sweep of two runs; tests may add folders to it, but change no run."""
    folder = workplace / "outputs/small/sweep"
    if len(list(folder.glob("*/metrics.json"))) != 2:
        phases = [f"~schedule.phases.{name}" for name in ("frozen_large", "unfrozen_large")]
        result = covid_xray(
            "train", "-m", "experiment=tiny", "name=small", "datamodule.num_workers=0", f"{RATE}=1e-3,1e-2", *phases
        )
        assert result.returncode == 0, result.stdout + result.stderr
    return folder
