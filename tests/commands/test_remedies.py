"""Trainings that keep a network from reading the source: what each leaves behind, and where they are refused."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import Command, load_state
from tiny_run import InProcess, command, mistake

__all__ = ["command"]
SMALL = ("train", "experiment=tiny", "logger=none", "~schedule.phases.frozen_large", "~schedule.phases.unfrozen_large")
REMEDIES = ("sampler=independent", "loss=group_dro", "adversary=source")


@pytest.fixture(scope="module")
def run(covid_xray: Command, workplace: Path) -> Path:
    """A finished run with all of them."""
    result = covid_xray(*SMALL, *REMEDIES, "data.shortcut=0.3", "run_dir=remedies")
    assert result.returncode == 0, result.stderr
    return workplace / "remedies"


def test_states_are_in_the_checkpoint_and_losses_in_the_curves(run: Path) -> None:
    state = load_state(run / "checkpoints/last.ckpt")["state_dict"]
    weights = state["loss.group_weights"]
    assert weights.shape == (9,)
    assert len(weights.unique()) > 1
    assert float(weights.sum()) == pytest.approx(1)
    assert state["adversary.layers.2.weight"].shape == (3, 256)
    counts = pd.read_csv(run / "curves.csv")["metric"].value_counts()
    assert [counts[f"train/{name}"] for name in ("loss", "objective", "source_loss")] == [14, 14, 14]


def test_a_run_without_its_training_parts_is_loaded(run: Path, command: InProcess) -> None:
    code, out, err = command(f"export run={run} format=safetensors")
    assert code == 0, out + err


def test_refused_where_every_covid_image_has_another_source(
    command: InProcess, workplace: Path, real_xrays: Path
) -> None:
    line = f"train experiment=small weights=null model=resnet18 data=manifest data.manifest={real_xrays} loss=group_dro"
    mistake(command(f"{line} run_dir=refused"), "no source has both covid-19 and normal or pneumonia images")
    assert not (workplace / "refused").exists()
