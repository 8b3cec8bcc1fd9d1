"""Trainings that keep a network from reading the source: what each leaves behind, and where they are refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import Command, load_state
from tiny_run import InProcess, command, copy_run, mistake

from covid_xray.data.images.read import read_image
from covid_xray.data.phantom import PhantomSet

__all__ = ["command"]
SMALL = ("train", "experiment=tiny", "logger=none", "~schedule.phases.frozen_large", "~schedule.phases.unfrozen_large")
REMEDIES = ("sampler=independent", "loss=group_dro", "adversary=source")


@pytest.fixture(scope="module")
def run(covid_xray: Command, workplace: Path) -> Path:
    """A finished run with all of them."""
    result = covid_xray(*SMALL, *REMEDIES, "crop=frame", "data.shortcut=0.3", "run_dir=remedies")
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


def test_predict_crops_as_the_training_did(run: Path, command: InProcess, workplace: Path) -> None:
    splits = pd.read_csv(run / "splits.csv")
    tested = splits[splits["split"] == "test"]
    root = PhantomSet(60, 2, 64, shortcut=0.3).manifest(workplace / "data/phantoms").parent
    (workplace / "cropped.txt").write_text("".join(f"{root / path}\n" for path in tested["path"]))
    code, out, err = command(f"predict run={run} input=cropped.txt output=cropped.csv")
    assert code == 0, out + err
    predicted = pd.read_csv(workplace / "cropped.csv")["prediction"]
    accuracy = json.loads((run / "metrics.json").read_text())["test/accuracy"]
    assert (predicted.to_numpy() == tested["label"].to_numpy()).mean() == pytest.approx(accuracy)
    first = read_image(next((workplace / "data/cropped").glob("*.png")))
    assert first.shape == (48, 48)


def test_predict_needs_the_table_of_a_crop_by_box(run: Path, command: InProcess) -> None:
    copy = copy_run(run, "boxed")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("FrameCrop", "BoxCrop").replace("  left:", "  margin:"))
    text = "".join(
        line for line in config.read_text().splitlines(True) if not line.startswith(("  right:", "  top:", "  bottom:"))
    )
    config.write_text(text)
    mistake(command(f"predict run={copy} input=cropped.txt output=x.csv"), "crops each image by the column box")


def test_refused_where_every_covid_image_has_another_source(
    command: InProcess, workplace: Path, real_xrays: Path
) -> None:
    line = f"train experiment=small weights=null model=resnet18 data=manifest data.manifest={real_xrays} loss=group_dro"
    mistake(command(f"{line} run_dir=refused"), "no source has both covid-19 and normal or pneumonia images")
    assert not (workplace / "refused").exists()
