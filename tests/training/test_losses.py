"""Losses and mixing against scikit-learn, torch and hand-computed values."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from covid_xray.errors import UserError
from covid_xray.networks.resnet import TransferResNet
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.adversary import SourceAdversary, reverse_gradient, strength_at
from covid_xray.training.losses import CrossEntropy, FocalLoss, GroupDRO
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


TABLE = pd.DataFrame([[8, 2, 0], [1, 9, 4]], index=["a", "b"], columns=["x", "y", "z"])  # no image of a from z


@given(seed=st.integers(0, 99), steps=st.integers(1, 4), step_size=st.floats(0.01, 2), adjustment=st.floats(0, 3))
def test_group_dro_is_algorithm_1(seed: int, steps: int, step_size: float, adjustment: float) -> None:
    random, loss = np.random.default_rng(seed), GroupDRO(TABLE, step_size, adjustment)
    weights = {pair: 1 / 5 for pair in np.ndindex(2, 3) if TABLE.to_numpy()[pair]}
    for _ in range(steps):
        logits = torch.from_numpy(random.normal(size=(7, 2)).astype(np.float32)).requires_grad_()
        groups = [list(weights)[number] for number in random.integers(5, size=7)]
        losses = -logits.log_softmax(dim=1)[range(7), [label for label, _ in groups]]
        means = {pair: losses[[group == pair for group in groups]].mean() for pair in set(groups)}
        for pair, mean in means.items():
            shift = adjustment / np.sqrt(TABLE.to_numpy()[pair])
            weights[pair] *= np.exp(step_size * (mean.item() + shift))
        weights = {pair: weight / sum(weights.values()) for pair, weight in weights.items()}
        expected = torch.stack([weights[pair] * mean for pair, mean in means.items()]).sum()
        labels, sources = torch.tensor(groups).T
        found = loss(logits, labels, sources)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients)
    known = [weights.get(pair, 0.0) for pair in np.ndindex(2, 3)]
    np.testing.assert_allclose(loss.group_weights.numpy(), known, rtol=1e-4)
    again = GroupDRO(TABLE, step_size, adjustment)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(logits, labels, sources), loss(logits, labels, sources))


@given(strength=st.floats(0, 5))
def test_reversal_keeps_values_and_turns_gradients(strength: float) -> None:
    values = torch.arange(6.0).requires_grad_()
    found = reverse_gradient(values, strength)
    assert torch.equal(found, values)
    (gradient,) = torch.autograd.grad((found**2).sum(), values)
    torch.testing.assert_close(gradient, -strength * 2 * values.detach())


def test_strength_rises_from_0_to_1() -> None:
    strengths = [strength_at(progress) for progress in np.linspace(0, 1, 20)]
    assert strengths == sorted(strengths)
    assert strengths[0] == 0
    assert strengths[-1] == pytest.approx(1, abs=1e-3)


def test_image_weights_make_label_and_source_independent_for_the_adversary() -> None:
    network = TransferResNet(2, "resnet18")
    adversary = SourceAdversary(network, TABLE + 1)
    assert network.training
    counts = torch.tensor((TABLE + 1).to_numpy())
    weighted = adversary.image_weights * counts
    torch.testing.assert_close(weighted, torch.outer(counts.sum(dim=1), counts.sum(dim=0)) / counts.sum())
    assert (SourceAdversary(network, TABLE, reweight=False).image_weights == 1).all()
    features, labels, sources = torch.randn(6, 512, 2, 2), torch.tensor([0, 1] * 3), torch.tensor([0, 1, 2] * 2)
    loss = adversary(features.requires_grad_(), labels, sources, progress=1.0)
    assert torch.equal(adversary(features.flatten(2).mT, labels, sources, 1.0), loss), "tokens are pooled as maps are"
    inner = adversary.layers(features.mean(dim=(2, 3)))
    plain = (adversary.image_weights[labels, sources] * F.cross_entropy(inner, sources, reduction="none")).mean()
    gradients = [torch.autograd.grad(value, features)[0] for value in (loss, plain)]
    torch.testing.assert_close(gradients[0], -strength_at(1) * gradients[1])


def test_the_state_that_only_training_needs_is_not_loaded() -> None:
    network = TransferResNet(2, "resnet18")
    parts = {"loss": GroupDRO(TABLE), "adversary": SourceAdversary(network, TABLE)}
    trained = XrayClassifier(network, SCHEDULE, ["a", "b"], **parts)  # type: ignore[arg-type]
    assert trained.needs_sources
    other = XrayClassifier(TransferResNet(2, "resnet18"), SCHEDULE, ["a", "b"])
    assert not other.needs_sources
    other.load_weights(trained.state_dict())
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in other.state_dict().items())
    trained.load_weights(other.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        trained.load_weights({})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(COUNTS, label_smoothing=1), "label_smoothing must be at least 0 and below 1"),
        (lambda: CrossEntropy(COUNTS, "heavy"), "class_weights must be balanced"),
        (lambda: CrossEntropy(COUNTS, {"x": 1.0}), "'x' is no class; use a, b, c"),
        (lambda: CrossEntropy(COUNTS, {"a": 0.0}), "class_weights.a must be a number above 0"),
        (lambda: FocalLoss(COUNTS, -1), "gamma must be a number of at least 0"),
        (lambda: GroupDRO(TABLE, 0), "step_size must be a number above 0"),
        (lambda: GroupDRO(TABLE, adjustment=-1), "adjustment must be a number at least 0"),
        (lambda: SourceAdversary(TransferResNet(2, "resnet18"), TABLE, weight=0), "weight must be a number above 0"),
        (lambda: SourceAdversary(TransferResNet(2, "resnet18"), TABLE, hidden=0), "hidden must be a whole number"),
    ],
)
def test_mistakes(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(UserError, match=message):
        make()
