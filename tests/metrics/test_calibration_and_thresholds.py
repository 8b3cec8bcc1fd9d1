import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from covid_xray.errors import UserError
from covid_xray.metrics import calibration
from covid_xray.metrics.predictions import Predictions
from covid_xray.metrics.thresholds import apply_operating_point, choose_operating_point, predictive_values


def softmax(logits: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def overconfident(n: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), and the logits factor * z. The optimal temperature is the factor."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(n, 3))
    labels = (random.random(n)[:, None] > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return labels, factor * logits


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 200))
def test_scores_equal_scikit_learn_and_torchmetrics(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    labels, probabilities = random.integers(0, 3, n), softmax(3 * random.normal(size=(n, 3)))
    assert calibration.nll(labels, probabilities) == pytest.approx(sk.log_loss(labels, probabilities, labels=[0, 1, 2]))
    expected = sum(((labels == k) - probabilities[:, k]) ** 2 for k in range(3)).mean()
    assert calibration.brier(labels, probabilities) == pytest.approx(expected)
    found = tm.multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 3, n_bins=15)
    assert calibration.ece(labels, probabilities) == pytest.approx(float(found), abs=1e-5)
    by_class = calibration.class_calibration_errors(labels, probabilities)
    for k in range(3):
        # torchmetrics' binary error also bins the probability of the positive class.
        found = tm.binary_calibration_error(torch.tensor(probabilities[:, k]), torch.tensor(labels == k).int(), 15)
        assert by_class[k] == pytest.approx(float(found), abs=1e-5)


def test_confidence_1_is_in_the_last_bin_and_probability_0_has_a_finite_nll() -> None:
    bins = calibration.reliability_bins([1.0, 0.0, 0.5], [True, False, True], 10)
    assert bins.counts.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert np.isnan(bins.accuracy[1])
    assert calibration.nll(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(36.04, abs=0.01)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_class_shares_follow_bayes_rule(seed: int) -> None:
    random = np.random.default_rng(seed)
    before, after = random.dirichlet([2, 2, 2], 2)
    likelihood = random.random((50, 3)) + 0.01  # of an image, given its class
    expected = likelihood * after / (likelihood * after).sum(axis=1, keepdims=True)
    trained = likelihood * before / (likelihood * before).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibration.apply_shares(trained, before, after), expected, rtol=1e-9)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_equals_the_factor_of_the_logits(factor: float) -> None:
    labels, logits = overconfident(4000, factor)
    found = calibration.fit_temperature(labels, logits)
    assert found.value == pytest.approx(factor, rel=0.06)
    assert found.nll_after <= found.nll_before + 1e-12
    assert found.warning == ""
    after = calibration.apply_temperature(logits, found.value)
    assert found.nll_after == pytest.approx(calibration.nll(labels, after))
    assert np.array_equal(after.argmax(axis=1), logits.argmax(axis=1))
    if factor == 3.0:
        assert calibration.ece(labels, after) < 0.5 * calibration.ece(labels, softmax(logits))


def test_temperature_warns_if_there_is_no_optimum() -> None:
    perfect = calibration.fit_temperature([0, 1], [[5.0, 0.0], [0.0, 5.0]])
    assert perfect.value == 1
    assert "all validation images are correct" in perfect.warning
    useless = calibration.fit_temperature([1, 0], [[5.0, 0.0], [0.0, 5.0]])
    assert "not related to the labels" in useless.warning
    with pytest.raises(UserError, match="not finite"):
        calibration.fit_temperature([0], [[np.nan, 0.0]])
    with pytest.raises(UserError, match="at least one image"):
        calibration.fit_temperature([], np.zeros((0, 3)))
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            calibration.apply_temperature([[0.0, 1.0]], bad)


def binary(n: int, seed: int, skill: float = 1.5) -> Predictions:
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, random.integers(0, 2, n - 2)]
    share = 1 / (1 + np.exp(-(skill * (2 * labels - 1) / 2 + random.normal(size=n))))
    return Predictions.build(labels, np.c_[1 - share, share], ["well", "ill"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 80))
def test_operating_points_are_optimal(seed: int, n: int) -> None:
    validation = binary(n, seed)
    scores, is_ill = validation.probabilities[:, 1], validation.labels == 1

    def at(threshold: float) -> tuple[float, float]:
        positive = scores >= threshold
        return float(positive[is_ill].mean()), float((~positive[~is_ill]).mean())

    pairs = [at(threshold) for threshold in [*scores, 1.0]]
    youden = choose_operating_point(validation, "ill")
    assert youden.sensitivity + youden.specificity == pytest.approx(max(sum(pair) for pair in pairs))
    assert (youden.sensitivity, youden.specificity) == at(youden.threshold)
    screening = choose_operating_point(validation, "ill", "sensitivity", 0.95)
    assert screening.sensitivity >= 0.95
    assert screening.specificity == max(specificity for sensitivity, specificity in pairs if sensitivity >= 0.95)


def test_operating_points_are_applied_unchanged() -> None:
    point = choose_operating_point(binary(300, 1), "ill", "sensitivity")
    test = binary(400, 2)
    result = apply_operating_point(point, test, prevalence=0.05)
    positive = test.probabilities[:, 1] >= point.threshold
    assert result.sensitivity.value == pytest.approx(positive[test.labels == 1].mean())
    assert result.specificity.value == pytest.approx((~positive)[test.labels == 0].mean())
    # At the prevalence of the test set, Bayes' rule gives the observed predictive values.
    same = apply_operating_point(point, test, prevalence=float((test.labels == 1).mean()))
    assert same.ppv.value == pytest.approx((test.labels[positive] == 1).mean())
    assert same.npv.value == pytest.approx((test.labels[~positive] == 0).mean())
    for interval in (result.sensitivity, result.specificity, result.ppv, result.npv):
        assert interval.low <= interval.value <= interval.high
    assert result.ppv.value < same.ppv.value
    default = apply_operating_point(point, test)
    assert default.of_test_images
    assert not same.of_test_images
    assert (default.prevalence, default.ppv, default.npv) == (same.prevalence, same.ppv, same.npv)
    ill = test.select(np.flatnonzero(test.labels == 1))
    assert apply_operating_point(point, ill).ppv.text() == "not defined: a class has no test image or prediction"


def test_predictive_values_of_a_textbook_test() -> None:
    ppv, npv = predictive_values(0.99, 0.99, 0.01)
    assert (ppv, npv) == pytest.approx((0.5, 0.9801 / 0.9802))
    assert np.isnan(predictive_values(0.0, 1.0, 0.1)[0])


def test_invalid_thresholds_raise() -> None:
    data = binary(20, 0)
    with pytest.raises(UserError, match="not a class of these predictions"):
        choose_operating_point(data, "sick")
    with pytest.raises(UserError, match="no validation image is ill"):
        choose_operating_point(data.select(np.flatnonzero(data.labels == 0)), "ill")
    with pytest.raises(UserError, match="minimum sensitivity"):
        choose_operating_point(data, "ill", "sensitivity", 95)
    with pytest.raises(UserError, match="unknown"):
        choose_operating_point(data, "ill", "best")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="prevalence"):
        apply_operating_point(choose_operating_point(data, "ill"), data, prevalence=5)
