"""The files of docs/examples, which the page "Extending" shows, train, resume, evaluate and import."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TESTS, Command
from omegaconf import OmegaConf

from covid_xray.data import importers
from covid_xray.data.images.read import write_png
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.data.prepare import prepare

EXAMPLES = TESTS.parent / "docs/examples"
CHOICES = ("model=my_network", "loss=my_loss", "data=my_records", "logger=my_logger")


@pytest.fixture(scope="module")
def images(workplace: Path) -> Path:
    """Images as the example's data set expects them."""
    folder = workplace / "my-images"
    folder.mkdir()
    for number in range(45):
        label = CLASSES[number % 3]
        write_png(folder / f"p{number}_0_{label}.png", draw_phantom(label, number, 0, 48))
    return folder


ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, EXAMPLES)))}
SHORT = ("~schedule.phases.frozen_large", "~schedule.phases.unfrozen_large", "datamodule.num_workers=0")
LINE = ("train", f"--config-dir={EXAMPLES / 'conf'}", "experiment=tiny", *CHOICES, *SHORT)


def test_all_examples_train_together(covid_xray: Command, workplace: Path, images: Path) -> None:
    result = covid_xray(*LINE, f"data.root={images.name}", "run_dir=extended", env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    config = OmegaConf.load(workplace / "extended/config.yaml")
    assert config.model._target_ == "my_network.MyNetwork"
    assert config.loss._target_ == "my_loss.GeneralisedCrossEntropy"
    assert config.data._target_ == "my_records.read_names"
    lines = _logged(workplace / "extended")
    assert any("val/loss" in line for line in lines)
    assert any("settings" in line for line in lines)
    evaluated = covid_xray("evaluate", "run=extended", "resamples=5", "saliency=false", "trust=true", env=ENVIRONMENT)
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.slow
def test_a_killed_run_logs_every_step_once(covid_xray: Command, workplace: Path, images: Path) -> None:
    kill = "+callbacks.kill._target_=probe_callbacks.KillAtStep"
    line = (*LINE, f"data.root={images.name}", "run_dir=extended-killed", kill)
    killed = covid_xray(*line, env={**ENVIRONMENT, "KILL_AT_STEP": "4"})
    assert killed.returncode == -9, killed.stderr
    result = covid_xray(*line, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    steps = [line["step"] for line in _logged(workplace / "extended-killed") if "train/loss" in line]
    assert steps == sorted(set(steps)), "also those before the kill"
    assert steps[0] <= 1


def _logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()]


def test_the_importer_reads_its_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the place of a copy of the file in the package.
    monkeypatch.setattr(importers, "__path__", [*importers.__path__, str(EXAMPLES)])
    source = tmp_path / "collection"
    (source / "scans").mkdir(parents=True)
    rows = ["image,diagnosis,person,projection"]
    for number in range(22):
        write_png(source / f"scans/{number}.png", draw_phantom("normal", number, 0, 48))
        rows.append(f"{number}.png,{('COVID', 'healthy')[number % 2] if number else 'unclear'},{number // 2},PA")
    (source / "index.csv").write_text("\n".join(rows))
    prepared = prepare("my_collection", source, tmp_path / "prepared")
    assert prepared.accepted["label"].value_counts().to_dict() == {"covid-19": 10, "normal": 11}
    assert prepared.accepted["patient_id"].nunique() == 11
    rejected = pd.read_csv(tmp_path / "prepared/rejected.csv")
    assert rejected[["path", "row"]].to_numpy().tolist() == [["../collection/scans/0.png", 2]]
