"""The augmentation of the article: its distributions, and that it is a pure function of image, size and seed."""

import albumentations as A
import cv2
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from covid_xray.data.augmentation import Augmentation, LogitBrightnessContrast, ResizeWarp, resample
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (300, 200)).astype(np.uint8)
IMAGE: GreyImage = np.asarray(cv2.GaussianBlur(NOISE, (0, 0), 4))


def test_same_seed_gives_the_same_image() -> None:
    augment = Augmentation([ResizeWarp(), LogitBrightnessContrast()])
    first = augment(IMAGE, 96, (0, 1, 2))
    assert first.shape == (96, 96)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, augment(IMAGE, 96, (0, 1, 3)))
    assert np.array_equal(first, augment(IMAGE, 96, (0, 1, 2)))


def test_transforms_draw_independently() -> None:
    """With a common seed, brightness would be correlated with the geometry."""
    augment = Augmentation([ResizeWarp(p=0.5), LogitBrightnessContrast(p=0.5)])
    drawn = []
    for seed in range(400):
        augment(IMAGE, 32, (seed,))
        warp, light = augment.transforms
        flat = warp.params["homography"][2, :2]
        drawn.append((bool(np.any(flat)), bool((light.params["table"] == np.arange(256)).all())))
    warped, lit = np.array(drawn, dtype=int).T
    table = np.histogram2d(warped, lit, bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_no_augmentation_is_resize() -> None:
    assert np.array_equal(Augmentation()(IMAGE, 64, (1,)), resize(IMAGE, 64))
    whole = ResizeWarp(p=0.0, flip_p=0.0).draw(np.random.default_rng(0))
    difference = resample(IMAGE, whole, 150).astype(int) - cv2.resize(IMAGE, (150, 150)).astype(int)
    assert np.abs(difference).max() <= 2


def test_rotation_angles_and_probabilities() -> None:
    warp = ResizeWarp(warp=0.0, zoom=1.0, flip_p=0.0)
    rng = np.random.default_rng(0)
    angles = np.array([np.degrees(np.arctan2(m[1, 0], m[0, 0])) for m in (warp.draw(rng) for _ in range(4000))])
    turned = angles[np.abs(angles) > 1e-9]
    assert len(turned) / len(angles) == pytest.approx(0.75, abs=0.03)
    assert stats.kstest(turned, stats.uniform(-10, 20).cdf).pvalue > 1e-3


def test_zoom_is_uniform_and_stays_inside_the_image() -> None:
    warp = ResizeWarp(warp=0.0, rotate=0.0, flip_p=0.0, p=1.0)
    rng = np.random.default_rng(0)
    drawn = [warp.draw(rng) for _ in range(4000)]
    scales = np.array([1 / m[0, 0] for m in drawn])
    assert stats.kstest(scales, stats.uniform(1, 0.1).cdf).pvalue > 1e-3
    corners = np.array([m @ [x, y, 1] for m in drawn for x in (-1, 1) for y in (-1, 1)])
    assert np.abs(corners[:, :2]).max() <= 1 + 1e-9


def test_warp_moves_the_corners_independently() -> None:
    """As symmetric_warp of fastai 1: corners moved by -0.2 to 0.2 are mapped to the corners of the square."""
    warp = ResizeWarp(rotate=0.0, zoom=1.0, flip_p=0.0, p=1.0)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        inverse = np.linalg.inv(warp.draw(rng))
        corner = inverse @ [-1, -1, 1]
        drawn.append(-1 - corner[:2] / corner[2])
    moves = np.array(drawn)
    for axis in (0, 1):
        assert stats.kstest(moves[:, axis], stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.08


def test_flip_is_exact_and_has_probability_one_half() -> None:
    flip = ResizeWarp(p=0.0, flip_p=1.0)
    square = resize(IMAGE, 64)
    assert np.array_equal(resample(square, flip.draw(np.random.default_rng(0)), 64), square[:, ::-1])
    half, rng = ResizeWarp(p=0.0), np.random.default_rng(0)
    assert np.mean([half.draw(rng)[0, 0] < 0 for _ in range(2000)]) == pytest.approx(0.5, abs=0.04)


def test_lighting_table_is_the_formula_of_fastai() -> None:
    light = LogitBrightnessContrast()
    pixels = np.arange(256) / 255
    expected = expit((logit(np.clip(pixels, 1e-7, 1 - 1e-7)) + 0.3) * 1.2) * 255
    assert np.abs(light.table(0.3, 1.2) - expected).max() <= 0.5 + 1e-6
    assert np.array_equal(light.table(0.0, 1.0), np.arange(256))


def test_lighting_draws() -> None:
    light = LogitBrightnessContrast(p=1.0, contrast=0.0)
    rng = np.random.default_rng(0)
    middle = np.array([light.sample(rng, 0)["table"][128] for _ in range(2000)]) / 255
    assert stats.kstest(middle, stats.uniform(0.4, 0.2).cdf).statistic < 0.05
    light = LogitBrightnessContrast(p=1.0, brightness=0.0)
    scales = [logit(light.sample(rng, 0)["table"][200] / 255) / logit(200 / 255) for _ in range(2000)]
    assert stats.kstest(np.log(scales), stats.uniform(np.log(0.8), np.log(1.25) - np.log(0.8)).cdf).statistic < 0.05


def test_ours_cannot_be_in_a_composition_of_albumentations() -> None:
    with pytest.raises(UserError, match="ResizeWarp cannot be in a composition"):
        A.OneOf([ResizeWarp()])


def test_border_is_reflected() -> None:
    bright = np.full((64, 64), 200, dtype=np.uint8)
    augment = Augmentation([ResizeWarp(p=1.0)])
    assert min(augment(bright, 64, (seed,)).min() for seed in range(20)) == 200
