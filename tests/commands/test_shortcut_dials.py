"""A run on phantoms with a known shortcut, from drawing to the verdict."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import Command


@pytest.mark.slow
def test_a_run_on_phantoms_with_a_shortcut_is_evaluated(covid_xray: Command, workplace: Path) -> None:
    dials = ("data.shortcut=0.9", "data.shortcut_kind=frame", "data.test_shortcut=0", "data.disease=0.5")
    trained = covid_xray("train", "experiment=tiny", "run_dir=dials", *dials)
    assert trained.returncode == 0, trained.stderr
    evaluated = covid_xray("evaluate", "run=dials", "resamples=20", "saliency=false")
    assert evaluated.returncode == 0, evaluated.stderr
    splits = pd.read_csv(workplace / "dials" / "splits.csv")
    tied = splits["source"].str[-1].astype(int) == splits["label"].astype("category").cat.codes + 1
    in_test = splits["split"] == "test"
    assert tied[~in_test].mean() > 0.8
    assert tied[in_test].mean() < 0.8
    found = json.loads((workplace / "dials" / "evaluation" / "test" / "metrics.json").read_text())
    assert found["own_test_images"]
    assert found["images"] == in_test.sum()
    assert "networks that lost at least a fifth" in found["shortcuts"]["rule"]
