"""Squishing and augmenting one image, with albumentations; the only module that imports it.

Every draw comes from the seed of the sample, never from a global generator: the result depends neither on the number
of loader workers nor on where a run was resumed.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images import GreyImage
from covid_xray.errors import UserError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network for news on import
import albumentations as A

Matrix = NDArray[np.float64]


class Augmentation:
    """Albumentations transforms as a pure function of image, size and seed.

    Args:
        transforms: Albumentations transforms in order. They see the image as it was read, and the wanted size as
            ``data["size"]``; what they leave at another size is squished to it at the end. Empty: squish only.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform] = ()) -> None:
        for transform in transforms:
            if not isinstance(transform, A.BasicTransform | A.BaseCompose):
                raise UserError(f"augment.transforms: {transform!r} is no albumentations transform")
        self.transforms = list(transforms)

    def __call__(self, image: GreyImage, size: int, seed: tuple[int, ...]) -> GreyImage:
        """Augment a grey uint8 image of any shape to (size, size)."""
        data: dict[str, Any] = {"image": image, "size": size}
        # One seed each: with a common one, as Compose would give, brightness would follow the angle of rotation.
        seeds = np.random.SeedSequence(seed).generate_state(len(self.transforms) or 1)
        for transform, own_seed in zip(self.transforms, seeds, strict=False):
            transform.set_random_seed(int(own_seed))
            data = transform(**data)
        return squish(data["image"], size)


class SquishWarp(A.ImageOnlyTransform):
    """Squish, perspective warp, rotation, zoom and flip as one bilinear resampling with reflection padding.

    As in fastai 1 (``symmetric_warp``, ``rotate``, ``rand_zoom``, ``flip_lr``), in coordinates from -1 to 1 along both
    sides, so that rotation acts on the squished image.

    Args:
        warp: Largest shift of each corner, drawn four times from U(-warp, warp).
        rotate: Largest angle, in degrees, either way.
        zoom: Largest magnification, about a random point.
        p: Probability of each of the three.
        flip_p: Probability of a horizontal flip.
    """

    class InitSchema(A.BasicTransform.InitSchema):  # noqa: D106
        warp: float
        rotate: float
        zoom: float
        flip_p: float

    def __init__(
        self, warp: float = 0.2, rotate: float = 10.0, zoom: float = 1.1, p: float = 0.75, flip_p: float = 0.5
    ) -> None:
        super().__init__(p=1.0)
        if not (0 <= warp < 0.5 and 0 <= rotate <= 180 and zoom >= 1 and 0 <= p <= 1 and 0 <= flip_p <= 1):
            raise UserError(
                f"augment: SquishWarp needs warp in [0, 0.5), rotate in [0, 180], zoom of at least 1 and p, flip_p in "
                f"[0, 1], not warp={warp}, rotate={rotate}, zoom={zoom}, p={p}, flip_p={flip_p}"
            )
        self.warp, self.rotate, self.zoom, self.each_p, self.flip_p = warp, rotate, zoom, p, flip_p

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the transformation."""
        return {"homography": self.draw(self.random_generator), "size": data["size"]}

    def draw(self, rng: np.random.Generator) -> Matrix:
        """Draw a homography from output to input coordinates, both from -1 to 1."""
        applied = rng.random(3) < self.each_p
        magnitudes = rng.uniform(-self.warp, self.warp, 4)
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        scale, *focus = rng.uniform((1, -1, -1), (self.zoom, 1, 1))
        matrix = np.eye(3)
        if applied[1]:
            cos, sin = math.cos(angle), math.sin(angle)
            matrix = matrix @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
        if applied[2]:
            shift = 1 - 1 / scale
            matrix = matrix @ [[1 / scale, 0, shift * focus[0]], [0, 1 / scale, shift * focus[1]], [0, 0, 1]]
        if applied[0]:
            matrix = matrix @ _corner_warp(magnitudes)
        if rng.random() < self.flip_p:
            matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
        return np.asarray(matrix)

    def apply(self, img: GreyImage, homography: Matrix, size: int, **params: Any) -> GreyImage:
        """Resample the image to (size, size)."""
        return resample(img, homography, size)


class LogitBrightnessContrast(A.ImageOnlyTransform):
    """Brightness added and contrast multiplied in logit space, as in fastai 1's ``brightness`` and ``contrast``.

    Args:
        brightness: Adds logit(U(0.5 - brightness, 0.5 + brightness)).
        contrast: Multiplies the logits by a log-uniform draw from (1 - contrast, 1 / (1 - contrast)).
        p: Probability of each of the two.
    """

    class InitSchema(A.BasicTransform.InitSchema):  # noqa: D106
        brightness: float
        contrast: float

    _LOGITS = np.log(
        np.clip(np.arange(256) / 255, 1e-7, 1 - 1e-7) / (1 - np.clip(np.arange(256) / 255, 1e-7, 1 - 1e-7))
    )

    def __init__(self, brightness: float = 0.1, contrast: float = 0.2, p: float = 0.75) -> None:
        super().__init__(p=1.0)
        if not (0 <= brightness < 0.5 and 0 <= contrast < 1 and 0 <= p <= 1):
            raise UserError(
                f"augment: LogitBrightnessContrast needs brightness in [0, 0.5), contrast in [0, 1) and p in [0, 1], "
                f"not brightness={brightness}, contrast={contrast}, p={p}"
            )
        self.brightness, self.contrast, self.each_p = brightness, contrast, p

    def get_params(self) -> dict[str, Any]:
        """Draw the table of output grey levels by input grey level."""
        rng = self.random_generator
        applied = rng.random(2) < self.each_p
        change = rng.uniform(0.5 - self.brightness, 0.5 + self.brightness)
        scale = (1 - self.contrast) ** rng.uniform(-1, 1)
        return {
            "table": self.table(math.log(change / (1 - change)) if applied[0] else 0.0, scale if applied[1] else 1.0)
        }

    def table(self, shift: float, scale: float) -> GreyImage:
        """Grey levels (256,) after adding ``shift`` to the logits and multiplying them by ``scale``."""
        return np.rint(255 / (1 + np.exp(-(self._LOGITS + shift) * scale))).astype(np.uint8)

    def apply(self, img: GreyImage, table: GreyImage, **params: Any) -> GreyImage:
        """Look every grey level up."""
        return np.asarray(cv2.LUT(img, table), dtype=np.uint8)


def squish(image: GreyImage, size: int) -> GreyImage:
    """Resize both sides to ``size``, whatever the aspect ratio: area average when shrinking, else bilinear."""
    if image.shape == (size, size):
        return image
    shrinks = min(image.shape) > size
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def resample(image: GreyImage, homography: Matrix, size: int) -> GreyImage:
    """Resample to (size, size), bilinear with reflection padding, after averaging where it shrinks to half or less.

    Args:
        image: Grey image (height, width), uint8.
        homography: Matrix (3, 3) from output to input coordinates, both from -1 to 1 along each side.
        size: Side of the result, in pixels.
    """
    height, width = image.shape
    # Bilinear sampling reads 2 x 2 pixels: beyond half size it would skip some (fastai 1 averages first, too).
    if min(height, width) >= 2 * size:
        height, width = height * size // min(height, width), width * size // min(height, width)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    to_unit = np.array([[2 / size, 0, 1 / size - 1], [0, 2 / size, 1 / size - 1], [0, 0, 1]])
    to_pixels = np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])
    matrix = to_pixels @ homography @ to_unit
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101))


def _corner_warp(magnitudes: NDArray[np.float64]) -> Matrix:
    """Homography that takes the moved corners back to the square's; fastai 1's ``symmetric_warp``."""
    m = magnitudes
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.float32)
    moved = np.array([[-1 - m[3], -1 - m[1]], [-1 - m[2], 1 + m[1]], [1 + m[3], -1 - m[0]], [1 + m[2], 1 + m[0]]])
    return np.asarray(cv2.getPerspectiveTransform(moved.astype(np.float32), corners))
