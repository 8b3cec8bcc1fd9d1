"""The linear probe of an encoder against scikit-learn's plain pipeline, and what it refuses."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covid_xray.errors import UserError
from covid_xray.probes.linear_probe import PENALTIES, probe_folds

LABELS = [name for name in ("a", "b", "c") for _ in range(20)]
PATIENTS = [f"p{number // 2}" for number in range(60)]


def make_features(strength: float, dimensions: int = 80, seed: int = 0) -> np.ndarray:
    """More features than images; ``strength`` separates the classes."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(3, dimensions))
    truth = np.repeat([0, 1, 2], 20)
    noise = random.normal(size=(60, dimensions)) * random.uniform(0.1, 3, dimensions)
    features: np.ndarray = 5 + strength * centres[truth] + noise
    return features


def test_probabilities_are_those_of_the_plain_pipeline() -> None:
    x, y, groups = make_features(0.3), np.array(LABELS), np.array(PATIENTS)
    folds = list(probe_folds(x, LABELS, PATIENTS, folds=3, seed=1))
    assert sorted(np.concatenate([fold.rows for fold in folds])) == list(range(60))
    for fold in folds:
        train = np.setdiff1d(np.arange(60), fold.rows)
        assert not set(groups[train]) & set(groups[fold.rows])
        assert fold.penalty in PENALTIES
        model = make_pipeline(StandardScaler(), LogisticRegression(C=fold.penalty, max_iter=1000))
        expected = model.fit(x[train], y[train]).predict_proba(x[fold.rows])
        np.testing.assert_allclose(fold.probabilities, expected, atol=1e-2)  # lbfgs stops at a tolerance


def test_a_signal_is_found_and_noise_is_not() -> None:
    def accuracy(strength: float) -> float:
        hits = [
            np.array(LABELS)[fold.rows] == np.array(["a", "b", "c"])[fold.probabilities.argmax(axis=1)]
            for fold in probe_folds(make_features(strength), LABELS, PATIENTS)
        ]
        return float(np.concatenate(hits).mean())

    assert accuracy(2.0) > 0.95
    assert accuracy(0.0) < 0.6


def test_what_is_refused() -> None:
    x = make_features(1.0)
    with pytest.raises(UserError, match="class a has 10 patients, and folds=11 needs 11"):
        list(probe_folds(x, LABELS, PATIENTS, folds=11))
    with pytest.raises(UserError, match="class c has 1 patients"):
        list(probe_folds(x, LABELS, PATIENTS[:40] + ["one"] * 20))
    with pytest.raises(UserError, match="at least two classes"):
        list(probe_folds(x, ["a"] * 60, PATIENTS))
    with pytest.raises(UserError, match="a feature is not finite"):
        list(probe_folds(np.where(x > 9, np.nan, x), LABELS, PATIENTS))
    with pytest.raises(UserError, match="n labels and patients"):
        list(probe_folds(x, LABELS[:3], PATIENTS))
    with pytest.raises(UserError, match="folds must be"):
        list(probe_folds(x, LABELS, PATIENTS, folds=1))
