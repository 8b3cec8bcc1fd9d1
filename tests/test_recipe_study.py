"""The table of the recipe study: equal class shares, averages, and the folds of predictions without folds."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import TESTS

from covid_xray.metrics.predictions import Predictions, write_predictions

CLASSES = ("covid-19", "normal", "pneumonia")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which writes beside itself, in a folder of its own."""
    spec = importlib.util.spec_from_file_location("recipe_table", TESTS.parent / "experiments/recipe/table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_table(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels, probabilities = np.arange(90) % 3, {name: random.dirichlet([1, 1, 1], 90) for name in ("a", "b", "probe")}
    names = [f"{number:02d}.png" for number in range(90)]
    training = ["covid-19"] + ["normal"] * 4 + ["pneumonia"] * 5
    for name in ("a", "b"):
        for fold in range(2):
            rows = slice(45 * fold, 45 * fold + 45)
            folder = tmp_path / name / f"fold{fold}"
            (folder / "evaluation/test").mkdir(parents=True)
            part = Predictions.build(labels[rows], probabilities[name][rows], CLASSES, names[rows], names[rows])
            write_predictions(part, folder / "evaluation/test/predictions.csv")
            pd.DataFrame({"label": training, "split": "train"}).to_csv(folder / "splits.csv")
    whole = tmp_path / "probe/evaluation/test"
    whole.mkdir(parents=True)
    order = random.permutation(90)
    shuffled = [names[row] for row in order]
    whole_predictions = Predictions.build(labels[order], probabilities["probe"][order], CLASSES, shuffled, shuffled)
    write_predictions(whole_predictions, whole / "predictions.csv")
    contenders = [f"first={tmp_path}/a", f"equal=equal:{tmp_path}/a", f"mean={tmp_path}/a+{tmp_path}/b"]
    monkeypatch.setattr(sys, "argv", ["table.py", *contenders, f"probe={tmp_path}/probe"])
    study.main()
    table = pd.read_csv(tmp_path / "results.csv").set_index("recipe")
    shares = np.array([0.1, 0.4, 0.5])
    expected = {
        "first": probabilities["a"],
        "equal": probabilities["a"] / shares,
        "mean": probabilities["a"] + probabilities["b"],
        "probe": probabilities["probe"],
    }
    right = {name: (values.argmax(axis=1) == labels).mean() for name, values in expected.items()}
    for name, accuracy in right.items():
        assert table.loc[name, "accuracy, pooled"] == pytest.approx(accuracy, abs=1e-4)
        assert table.loc[name, "folds"] == 2
        if name != "first":
            assert table.loc[name, "difference"] == pytest.approx(accuracy - right["first"], abs=1e-4)
    by_fold = [
        (probabilities["probe"][part].argmax(axis=1) == labels[part]).mean() for part in (slice(45), slice(45, 90))
    ]
    assert table.loc["probe", "accuracy, sd"] == pytest.approx(np.std(by_fold, ddof=1), abs=1e-4)
    assert (tmp_path / "results.png").is_file()
