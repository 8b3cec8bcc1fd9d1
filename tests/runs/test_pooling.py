"""Which runs are averaged and which are pooled, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.errors import UserError
from covid_xray.metrics.predictions import Predictions, average_predictions
from covid_xray.runs.pooling import Member, combine, differing_settings, fold_groups, member_runs

CLASSES = ("a", "b")


def predictions(seed: int = 0, images: str = "wxyz", patients: str = "1122") -> Predictions:
    chances = np.random.default_rng(seed).dirichlet((1, 1), len(images))
    return Predictions.build([i % 2 for i in range(len(images))], chances, CLASSES, list(images), list(patients))


def member(seed: int = 0, fold: int | None = None, trained: str = "34", **changes: Any) -> Member:
    config = {"seed": seed, "split": {"fold": fold or 0, "folds": None if fold is None else 2}}
    images, patients = ("wxyz", "1122") if not fold else ("klmn", "3344")
    splits = pd.DataFrame({"path": list(trained), "patient_id": list(trained), "split": "train"})
    fields: dict[str, Any] = {
        "config": config,
        "splits": splits,
        "predictions": predictions(seed, images, patients),
        **{"is_calibrated": True, "is_own_data": True, "subset": "test", "leaks": ()},
    }
    return Member(**(fields | changes))


@given(st.permutations("wxyz"), st.integers(1, 4))
def test_the_mean_does_not_depend_on_the_order_of_the_images(order: list[str], count: int) -> None:
    parts = [predictions(seed) for seed in range(count)]
    rows = ["wxyz".index(image) for image in order]
    mean = average_predictions([parts[0], *(part.select(rows) for part in parts[1:])])
    assert mean.images == parts[0].images
    np.testing.assert_allclose(mean.probabilities, np.mean([part.probabilities for part in parts], axis=0))


def test_other_images_labels_and_classes_cannot_be_averaged() -> None:
    one = predictions()
    with pytest.raises(UserError, match="2 images are not predicted by all models, such as v"):
        average_predictions([one, predictions(images="vxyz")])
    with pytest.raises(UserError, match="another label or patient"):
        average_predictions([one, predictions(patients="1222")])
    with pytest.raises(UserError, match="classes differ: a, b and a, c"):
        average_predictions([one, Predictions.build(one.labels, one.probabilities, ("a", "c"), one.images)])


def test_runs_of_one_split_are_averaged_and_folds_are_pooled() -> None:
    seeds = combine({"s0": member(0), "s1": member(1)}, 5, 0)
    assert (seeds.text, dict(seeds.groups)) == ("mean of 2 runs", {"all": ["s0", "s1"]})
    assert list(seeds.table["accuracy"]) == ["s0", "s1", "mean", "sd"]
    folds = combine({"f0": member(0, 0), "f1": member(1, 1, "12")}, 5, 0)
    assert (folds.text, len(folds.predictions.labels)) == ("2 folds pooled", 8)
    both = {f"f{fold}s{seed}": member(seed, fold, "12" if fold else "34") for fold in (0, 1) for seed in (0, 1, 2)}
    found = combine(both, 5, 0)
    assert found.text == "2 folds pooled, each the mean of 3 runs"
    assert list(found.table["accuracy"]) == ["fold 0", "fold 1", "mean", "sd"]
    mean = np.mean([both[f"f1s{seed}"].predictions.probabilities for seed in (0, 1, 2)], axis=0)
    np.testing.assert_allclose(found.predictions.probabilities[4:], mean)


def test_folds_are_averaged_on_another_data_set() -> None:
    other: dict[str, Any] = {"is_own_data": False, "predictions": predictions()}
    found = combine({"f0": member(0, 0, **other), "f1": member(1, 1, **other)}, 5, 0)
    assert found.text == "mean of 2 runs"


REFUSED: dict[str, tuple[dict[str, Member], str]] = {
    "trained on a test patient": (
        {"A": member(0), "B": member(1, trained="23")},
        r"B has 1 patients of the test images of A",
    ),
    "a copy of a training image": (
        {"A": member(0), "B": member(1, leaks=("Leak: 1 of 4 test images are images of training.",))},
        "B: Leak: 1 of 4 test images are images of training; an ensemble is tested",
    ),
    "not calibrated": ({"A": member(0), "B": member(1, is_calibrated=False)}, "B is not calibrated"),
    "other test images": ({"A": member(0), "B": member(1, predictions=predictions(1, "vxyz"))}, "not predicted by all"),
    "fewer runs of a fold": ({"A": member(0, 0), "B": member(1, 1), "C": member(2, 1)}, "fold 0 has 1 finished runs"),
    "folds and no folds": ({"A": member(0, 0), "B": member(1)}, "not the folds of one cross-validation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    members, expected = REFUSED[name]
    with pytest.raises(UserError, match=expected):
        combine(members, 5, 0)


def test_the_same_id_in_another_data_set_is_another_patient() -> None:
    other: dict[str, Any] = {"is_own_data": False, "trained": "12"}
    assert combine({"A": member(0, **other), "B": member(1, **other)}, 5, 0).text == "mean of 2 runs"


def test_a_missing_fold_is_named() -> None:
    configs = {name: {"split": {"fold": fold, "folds": 3}} for name, fold in (("a", 0), ("b", 2))}
    with pytest.raises(UserError, match="fold 1 of 3 is missing"):
        fold_groups(configs)
    assert fold_groups({"a": configs["a"], "c": configs["a"]}) == {"fold 0": ["a", "c"]}


def test_settings_that_differ() -> None:
    configs = {"a": {"seed": 0, "name": "x", "split": {"fold": 0}}, "b": {"seed": 1, "name": "y", "split": {"fold": 0}}}
    assert differing_settings(configs) == ["seed"]


def test_runs_that_a_list_or_folder_names(tmp_path: Path) -> None:
    for name in ("b", "a", "unfinished", "bundle"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "config.yaml").touch()
    for name in ("a", "b"):
        (tmp_path / "sweep" / name / "metrics.json").touch()
    (tmp_path / "sweep" / "bundle" / "model.safetensors").touch()
    sweep = tmp_path / "sweep"
    assert [path.name for path in member_runs(str(sweep))] == ["a", "b", "bundle"]
    assert member_runs(str(sweep / "a")) == [sweep / "a"]
    assert [path.name for path in member_runs([str(sweep / "b"), str(sweep / "a")])] == ["b", "a"]
    assert member_runs(str(tmp_path / "nowhere")) == [tmp_path / "nowhere"]
    for runs, expected in (([], "names no run"), ([sweep, sweep / "a"], "names a run twice")):
        with pytest.raises(UserError, match=expected):
            member_runs([str(run) for run in runs])
