import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from covid_xray.errors import UserError
from covid_xray.metrics import scores as metrics
from covid_xray.metrics.bootstrap import bootstrap, draw_patients
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.predictions import (
    Predictions,
    pool_predictions,
    read_predictions,
    write_predictions,
)


def random_predictions(
    seed: int, n: int = 120, classes: int = 3, ties: bool = False, skill: float = 1.0
) -> Predictions:
    random = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), random.integers(0, classes, n - classes)]
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), labels] += skill
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    patients = [f"p{i}" for i in random.integers(0, n // 2, n)]
    return Predictions.build(labels, probabilities, [f"c{k}" for k in range(classes)], patients=patients)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5), ties=st.booleans(), skill=st.floats(-2, 4))
def test_every_score_equals_scikit_learn(seed: int, classes: int, ties: bool, skill: float) -> None:
    predictions = random_predictions(seed, classes=classes, ties=ties, skill=skill)
    labels, predicted, probabilities = predictions.labels, predictions.predicted, predictions.probabilities
    scores = metrics.score(predictions)
    found = scores.values
    assert np.array_equal(scores.confusion, sk.confusion_matrix(labels, predicted, labels=range(classes)))
    truth = np.eye(classes)[labels]
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "no_information_rate": np.bincount(labels).max() / len(labels),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "weighted_f1": sk.f1_score(labels, predicted, average="weighted"),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "kappa": sk.cohen_kappa_score(labels, predicted),
        "macro_auroc": np.mean([sk.roc_auc_score(truth[:, k], probabilities[:, k]) for k in range(classes)]),
        "macro_average_precision": sk.average_precision_score(truth, probabilities, average="macro"),
        "nll": sk.log_loss(labels, probabilities, labels=range(classes)),
        "brier": ((probabilities - truth) ** 2).sum(axis=1).mean(),
    }
    recall = sk.recall_score(labels, predicted, average=None, labels=range(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ppv = sk.precision_score(labels, predicted, average=None, labels=range(classes), zero_division=np.nan)
    f1 = sk.f1_score(labels, predicted, average=None, labels=range(classes))
    for k in range(classes):
        expected |= {
            f"sensitivity/c{k}": recall[k],
            f"specificity/c{k}": sk.recall_score(labels != k, predicted != k),
            f"ppv/c{k}": ppv[k],
            f"npv/c{k}": sk.precision_score(labels != k, predicted != k, zero_division=np.nan),
            f"f1/c{k}": f1[k],
            f"auroc/c{k}": sk.roc_auc_score(truth[:, k], probabilities[:, k]),
            f"average_precision/c{k}": sk.average_precision_score(truth[:, k], probabilities[:, k]),
        }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    tested_elsewhere = {"ece", "classwise_ece"} | {f"calibration_error/c{k}" for k in range(classes)}
    assert set(found) == set(expected) | tested_elsewhere


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_torchmetrics(seed: int) -> None:
    predictions = random_predictions(seed)
    found = metrics.score(predictions).values
    probabilities, labels = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels)
    expected = {
        "macro_auroc": tm.multiclass_auroc(probabilities, labels, 3),
        "macro_average_precision": tm.multiclass_average_precision(probabilities, labels, 3),
        "mcc": tm.multiclass_matthews_corrcoef(probabilities, labels, 3),
        "kappa": tm.multiclass_cohen_kappa(probabilities, labels, 3),
        "ece": tm.multiclass_calibration_error(probabilities, labels, 3, n_bins=15, norm="l1"),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-5), name


def test_a_missing_class_has_reasons_and_does_not_change_the_other_classes() -> None:
    whole = random_predictions(1)
    part = whole.select(np.flatnonzero(whole.labels != 2))
    scores = metrics.score(part)
    for metric in ("sensitivity", "f1", "auroc", "average_precision"):
        assert math.isnan(scores.values[f"{metric}/c2"])
        assert scores.reasons[f"{metric}/c2"] == "no test image is c2"
    assert scores.values["specificity/c2"] < 1
    assert scores.values["balanced_accuracy"] == pytest.approx(
        sk.recall_score(part.labels, part.predicted, labels=[0, 1], average="macro")
    )
    assert scores.values["macro_f1"] == pytest.approx(
        sk.f1_score(part.labels, part.predicted, labels=[0, 1], average="macro")
    )
    assert {name for name, value in scores.values.items() if math.isnan(value)} == set(scores.reasons)
    estimates = estimate(part, resamples=50)
    assert estimates.intervals["auroc/c2"].reason == "no test image is c2"
    assert any(warning.startswith("c2: no test case at all") for warning in estimates.warnings)


def test_one_class_and_one_image() -> None:
    one = Predictions.build([0], [[0.9, 0.1]], ["a", "b"])
    scores = metrics.score(one)
    assert scores.values["accuracy"] == 1
    assert scores.values["mcc"] == 0
    assert scores.reasons["kappa"] == "all labels and predictions are one class"
    assert scores.reasons["specificity/a"] == "every test image is a"
    assert scores.reasons["ppv/b"] == "no image is predicted as b"
    assert scores.reasons["npv/a"] == "every image is predicted as a"
    plain = estimate(one, resamples=20).to_dict()
    assert plain["metrics"]["kappa"]["value"] is None
    assert "one patient" in plain["warnings"][-1]


def test_weighted_resample_equals_scikit_learn_with_copies() -> None:
    """Bootstrap values equal scikit-learn's values on images that are repeated by their number of copies, with ties."""
    predictions = random_predictions(5, n=60, ties=True)
    drawn = bootstrap(predictions, resamples=30, seed=3)
    copies = np.concatenate(list(draw_patients(predictions.n_patients, 30, 3, 60)))
    for row in range(30):
        rows = np.repeat(np.arange(60), copies[row][predictions.patient_index].astype(int))
        resample = Predictions.build(predictions.labels[rows], predictions.probabilities[rows], predictions.class_names)
        for name, value in metrics.score(resample).values.items():
            assert drawn[name][row] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_draws_do_not_depend_on_the_chunk_size() -> None:
    whole = np.concatenate(list(draw_patients(7, 500, 1, 7)))
    chunked = np.concatenate(list(draw_patients(7, 500, 1, 100_000)))
    assert np.array_equal(whole, chunked)
    assert (whole.sum(axis=1) == 7).all()


def test_predictions_round_trip_through_a_file(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    predictions = random_predictions(2)
    write_predictions(predictions, file)
    again = read_predictions(file)
    assert np.array_equal(again.probabilities, predictions.probabilities)
    assert np.array_equal(again.labels, predictions.labels)
    assert (again.images, again.patients, again.class_names) == (
        predictions.images,
        predictions.patients,
        predictions.class_names,
    )
    file.write_text("path,patient,label,p_a,p_b\nx,1,c,0.5,0.5\n")
    with pytest.raises(UserError, match="label 'c' has no column p_c"):
        read_predictions(file)
    file.write_text("path,label,p_a\nx,a,1\n")
    with pytest.raises(UserError, match="no column patient"):
        read_predictions(file)
    file.write_text("path,patient,label,p_a,p_b\nx,1,a,much,0.5\n")
    with pytest.raises(UserError, match=r"predictions\.csv"):
        read_predictions(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(file.with_name("missing.csv"))


@pytest.mark.parametrize(
    ("labels", "probabilities", "names", "message"),
    [
        ([], np.zeros((0, 2)), "ab", "empty"),
        ([0, 2], [[1, 0], [0, 1]], "ab", "labels range from 0 to 2"),
        ([0, 1], [[1, 0], [0, 1]], "aa", "two different names"),
        ([0, 1], [[1, 0]], "ab", "shape"),
        ([0, 1], [[1, 0], [np.nan, 1]], "ab", "1 of 2 rows are not probabilities that sum to 1, first image 1"),
        ([0, 1], [[1, 0], [2.5, -1.5]], "ab", "not probabilities"),
        ([0.5, 1], [[1, 0], [0, 1]], "ab", "whole numbers"),
    ],
)
def test_invalid_predictions_raise(labels: object, probabilities: object, names: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Predictions.build(labels, probabilities, list(names))  # type: ignore[arg-type]


def test_images_are_unique_and_folds_pool() -> None:
    whole = random_predictions(4)
    parts = [whole.select(np.arange(start, len(whole.labels), 2)) for start in (0, 1)]
    pooled = pool_predictions(parts)
    assert metrics.score(pooled).values == pytest.approx(metrics.score(whole).values)
    with pytest.raises(UserError, match="more than one prediction"):
        pool_predictions([parts[0], parts[0]])
