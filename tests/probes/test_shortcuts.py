import numpy as np
import pytest

from covid_xray.errors import UserError
from covid_xray.metrics.intervals import Interval
from covid_xray.probes.shortcuts import (
    CLEARED,
    READS_SOURCE,
    SUSPICIOUS,
    WARNED,
    Verdict,
    blacken_centre,
    exchange_centre,
    fill_centre,
    keep_centre,
    remove_border,
    shortcut_verdict,
)
from covid_xray.probes.source_probe import label_from_source, probe_source, probe_within_classes


def test_masks_are_complementary() -> None:
    images = np.random.default_rng(0).integers(1, 256, (3, 40, 64), dtype=np.uint8)
    outside, inside = blacken_centre(images), keep_centre(images)
    assert np.array_equal(outside + inside, images)
    assert ((outside == 0) ^ (inside == 0)).all()
    assert (inside > 0).mean() == pytest.approx(0.75**2, abs=0.02)
    assert np.array_equal(inside[:, 5:35, 8:56], images[:, 5:35, 8:56])
    assert np.array_equal(remove_border(images), images[:, 5:35, 8:56])
    assert images.min() > 0
    assert remove_border(images, 0.25).shape == (3, 20, 32)


@pytest.mark.parametrize(
    ("images", "share"),
    [(np.zeros((2, 8, 8)), 0.5), (np.zeros((8, 8), np.uint8), 0.5), (np.zeros((1, 8, 8), np.uint8), 1)],
)
def test_masks_of_other_images_raise(images: np.ndarray, share: float) -> None:
    for mask in (blacken_centre, keep_centre, remove_border):
        with pytest.raises(UserError):
            mask(images, share)


def test_filled_centres_keep_the_border_and_forget_the_centre() -> None:
    random = np.random.default_rng(0)
    images = random.integers(100, 120, (3, 40, 64), dtype=np.uint8)
    other = exchange_centre(images, random.integers(200, 256, images.shape, dtype=np.uint8))
    for fill in ("mean", "noise"):
        filled = fill_centre(images, fill)
        assert np.array_equal(blacken_centre(filled), blacken_centre(images))
        assert np.array_equal(filled, fill_centre(other, fill)), "it depends on the pixels outside only"
        assert keep_centre(filled)[:, 5:35, 8:56].mean() == pytest.approx(109.5, abs=1)
        assert np.array_equal(filled[1:], fill_centre(images[1:], fill)), "it depends on the image only"
    assert fill_centre(images, "mean")[0, 5:35, 8:56].std() == 0
    assert fill_centre(images, "noise")[0, 5:35, 8:56].std() == pytest.approx(images[0].std(), rel=0.2)
    blurred = fill_centre(images, "blur")
    assert np.array_equal(blacken_centre(blurred), blacken_centre(images))
    assert blurred[0, 10:30, 16:48].std() < 1
    with pytest.raises(UserError, match="mean, noise or blur"):
        fill_centre(images, "black")


def test_exchanged_centres_are_those_of_the_other_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 64), dtype=np.uint8)
    mixed = exchange_centre(images, images[::-1])
    assert np.array_equal(blacken_centre(mixed), blacken_centre(images))
    assert np.array_equal(keep_centre(mixed), keep_centre(images[::-1]))
    assert np.array_equal(exchange_centre(mixed, images), images)
    with pytest.raises(UserError, match="cannot get centres"):
        exchange_centre(images, images[:2])


def narrow(value: float) -> Interval:
    return Interval(value, value - 0.04, value + 0.04)


def test_verdicts_follow_the_rule() -> None:
    chance = 1 / 3

    def verdict(kept: float) -> Verdict:
        return shortcut_verdict(narrow(0.9), narrow(chance + kept * (0.9 - chance)), chance, 0.98, 0.5)

    cheat = verdict(READS_SOURCE + 0.01)
    assert cheat.text.endswith("without the lungs, 90 % with them: this model reads the source, not the disease.")
    assert cheat.cheats is True
    assert f"At least {100 * READS_SOURCE:.0f} %" in cheat.rule
    assert f"{WARNED[0]} of {WARNED[1]} networks" in cheat.rule
    assert f"{CLEARED[1] - CLEARED[0]} of {CLEARED[1]} that lost less" in cheat.rule
    suspicious = verdict((READS_SOURCE + SUSPICIOUS) / 2)
    assert suspicious.kept == pytest.approx((READS_SOURCE + SUSPICIOUS) / 2)
    assert suspicious.cheats is True
    assert "a part of this model's skill does not come from the lungs" in suspicious.text
    honest = verdict(SUSPICIOUS - 0.01)
    assert honest.cheats is False
    assert "not a proof" in honest.text
    # All predictions are one class, but the AUROC is still high.
    one_class = shortcut_verdict(narrow(0.9), narrow(chance), chance, 0.98, 0.95)
    assert one_class.cheats is True
    no_skill = shortcut_verdict(Interval(0.4, 0.3, 0.5), narrow(0.33), chance, 0.6, 0.5)
    assert no_skill.cheats is None
    assert np.isnan(no_skill.kept)


def study(strength: float, n: int = 160) -> tuple[np.ndarray, list[str], list[str], list[str]]:
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(n // 2), 2)
    source = (random.random(n // 2) < 0.4)[patient]
    label = (random.random(n // 2) < 0.5)[patient]
    # Images of one patient are almost equal: a probe without a split by patient would recognise the patient.
    features = (3 * random.normal(size=(n // 2, 30)))[patient] + 0.1 * random.normal(size=(n, 30))
    features[:, 0] += strength * source
    names = [["nih", "cohen"][int(s)] for s in source]
    return features, [["normal", "ill"][int(k)] for k in label], names, [f"p{i}" for i in patient]


def test_probe_finds_the_source_only_if_the_features_contain_it() -> None:
    features, labels, sources, patients = study(40.0)
    found = probe_source(features, sources, patients)
    assert found.accuracy.value > 0.95
    assert "the features contain information about the source" in found.text
    nothing = probe_source(study(0.0)[0], sources, patients)
    assert nothing.accuracy.low < nothing.no_information_rate
    assert "do not significantly contain" in nothing.text
    within = probe_within_classes(features, labels, sources, patients)
    assert set(within) == {"normal", "ill"}
    assert all(probe.accuracy.low > probe.no_information_rate for probe in within.values())


def test_probe_without_result_has_a_reason() -> None:
    features = np.zeros((4, 2))
    assert "one source" in probe_source(features, ["a"] * 4, list("1234")).text
    single = probe_source(features, ["a", "a", "b", "b"], ["1", "2", "3", "3"])
    assert "source b has only one patient" in single.text
    assert np.isnan(single.accuracy.value)
    with pytest.raises(UserError, match="not finite"):
        probe_source(features * np.nan, ["a"] * 4, list("1234"))
    with pytest.raises(UserError, match="2 folds"):
        probe_source(features, ["a"] * 4, list("1234"), folds=1)
    with pytest.raises(UserError, match="3 sources and 4 patients"):
        probe_source(features, ["a"] * 3, list("1234"))


def test_source_and_label() -> None:
    share, text = label_from_source(["covid", "covid", "normal", "ill"], ["cohen", "cohen", "nih", "nih"])
    assert share == 0.75
    assert "75 % of images (chance: 50 %)" in text
    assert "identical for covid (only cohen)" in text
    assert "one source" in label_from_source(["a", "b"], ["x", "x"])[1]
    assert "identical" not in label_from_source(["a", "b", "a", "b"], ["x", "x", "y", "y"])[1]
    with pytest.raises(UserError):
        label_from_source([], [])
