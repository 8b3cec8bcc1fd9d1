"""Losses and mixing against scikit-learn, torch and hand-computed values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.losses import CrossEntropy, FocalLoss
from covid_xray.training.mixing import cutmix, mixup
from covid_xray.training.module import XrayClassifier

COUNTS = {"a": 10, "b": 30, "c": 60}
SCHEDULE = Schedule({"only": Phase(32, 8, 1, "all", 1e-3)})


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(12, 3, generator=random), torch.randint(0, 3, (12,), generator=random)


def test_plain_cross_entropy_is_torchs_to_the_last_bit() -> None:
    logits, labels = batch()
    assert torch.equal(CrossEntropy(COUNTS)(logits, labels), F.cross_entropy(logits, labels))
    assert XrayClassifier(TransferResNet(3, "resnet18"), SCHEDULE, list(COUNTS), loss=CrossEntropy(COUNTS)).loss is None


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.repeat(list(COUNTS), list(COUNTS.values()))
    expected = compute_class_weight("balanced", classes=np.array(list(COUNTS)), y=labels)
    weight = CrossEntropy(COUNTS, "balanced").weight
    assert weight is not None
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)
    named = CrossEntropy(COUNTS, {"c": 5.0}).weight
    assert named is not None
    assert named.tolist() == [1, 1, 5]


@given(seed=st.integers(0, 99), smoothing=st.floats(0, 0.9))
def test_label_smoothing_is_torchs(seed: int, smoothing: float) -> None:
    logits, labels = batch(seed)
    found = CrossEntropy(COUNTS, "balanced", smoothing)(logits, labels)
    weight = CrossEntropy(COUNTS, "balanced").weight
    assert torch.equal(found, F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing))


@given(seed=st.integers(0, 99), weights=st.sampled_from([None, "balanced"]))
def test_focal_loss_without_gamma_is_the_cross_entropy(seed: int, weights: str | None) -> None:
    logits, labels = batch(seed)
    expected = CrossEntropy(COUNTS, weights)(logits, labels)
    torch.testing.assert_close(FocalLoss(COUNTS, 0, weights)(logits, labels), expected)


def test_focal_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    expected = -(0.5**2 * np.log(0.5) + 0.2**2 * np.log(0.8)) / 2
    assert float(FocalLoss(COUNTS)(logits, torch.tensor([0, 1]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [mixup, cutmix])
def test_mixing_depends_on_the_seed_and_keeps_the_probability(make: object) -> None:
    assert callable(make)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(make(3)(images, labels))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][0], results[2][0])
    torch.testing.assert_close(results[0][1].sum(dim=1), torch.ones(6))
    with pytest.raises(UserError, match=r"mixing\.alpha must be a number above 0"):
        make(3, alpha=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(COUNTS, label_smoothing=1), "label_smoothing must be at least 0 and below 1"),
        (lambda: CrossEntropy(COUNTS, "heavy"), "class_weights must be balanced"),
        (lambda: CrossEntropy(COUNTS, {"x": 1.0}), "'x' is no class; use a, b, c"),
        (lambda: CrossEntropy(COUNTS, {"a": 0.0}), "class_weights.a must be a number above 0"),
        (lambda: FocalLoss(COUNTS, -1), "gamma must be a number of at least 0"),
    ],
)
def test_mistakes(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(UserError, match=message):
        make()
