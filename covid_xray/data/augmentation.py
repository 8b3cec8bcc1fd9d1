"""Resizing and augmenting one image, with albumentations; the only module that imports it.

Every draw comes from the seed of the sample, never from a global generator: the result depends neither on the number
of loader workers nor on where a run was resumed.
"""

import hashlib
import math
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images.grey import GreyImage
from covid_xray.errors import UserError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network for news on import
import albumentations as A

Matrix = NDArray[np.float64]
_THREAD = threading.local()
_CORNERS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.float32)


class Augmentation:
    """Albumentations transforms as a pure function of image, size and seed.

    Args:
        transforms: Albumentations transforms in order. They see the image as it is given, and the wanted size as
            ``data["size"]``; what they leave at another size is resized to it at the end. Empty: resize only.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform] = ()) -> None:
        for transform in transforms:
            if not isinstance(transform, A.BasicTransform | A.BaseCompose):
                raise UserError(f"augment.transforms: {transform!r} is no albumentations transform")
        self.transforms = list(transforms)

    def __call__(self, image: GreyImage, size: int, seed: tuple[int, ...]) -> GreyImage:
        """Augment a grey uint8 image of any shape to (size, size); the given one is not changed."""
        rng = seeded_generator(seed) if self.transforms else None
        for transform in self.transforms:
            assert rng is not None
            if isinstance(transform, DirectTransform):
                image = transform.directly(image, size, rng)
            else:
                # Each gets a seed of its own: with a common one, its draws would follow those of its neighbours.
                transform.set_random_seed(int(rng.integers(1 << 32)))
                own = image if image.flags.writeable else image.copy()  # others may draw into it
                image = transform(image=own, size=size)["image"]
        return resize(image, size)


def seeded_generator(seed: tuple[int, ...]) -> np.random.Generator:
    """Generator at the start of the stream of its own that belongs to a seed; good until this thread asks again."""
    if not hasattr(_THREAD, "philox"):
        _THREAD.philox = np.random.Philox(key=0)
        _THREAD.generator, _THREAD.start = np.random.Generator(_THREAD.philox), _THREAD.philox.state
    # A new generator would take as long as a tenth of the warp; a counter-based one is set back instead.
    key = hashlib.blake2b(repr(tuple(map(int, seed))).encode(), digest_size=16).digest()
    _THREAD.start["state"]["key"][:] = np.frombuffer(key, dtype="<u8")
    _THREAD.philox.state = _THREAD.start
    generator: np.random.Generator = _THREAD.generator
    return generator


class DirectTransform(A.ImageOnlyTransform):
    """A transform that `Augmentation` applies without albumentations' bookkeeping, to save time."""

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Any]:
        """Draw the parameters of ``apply``."""
        raise NotImplementedError

    def directly(self, image: GreyImage, size: int, rng: np.random.Generator) -> GreyImage:
        """Draw and apply, as calling the transform with ``rng`` as its generator does."""
        self.params = self.sample(rng, size)
        return np.asarray(self.apply(image, **self.params), dtype=np.uint8)


class ResizeWarp(DirectTransform):
    """Resize, perspective warp, rotation, zoom and flip as one bilinear resampling with reflection padding.

    As in fastai 1 (``symmetric_warp``, ``rotate``, ``rand_zoom``, ``flip_lr``), in coordinates from -1 to 1 along both
    sides, so that rotation acts on the resized image.

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
                f"augment: ResizeWarp needs warp in [0, 0.5), rotate in [0, 180], zoom of at least 1 and p, flip_p in "
                f"[0, 1], not warp={warp}, rotate={rotate}, zoom={zoom}, p={p}, flip_p={flip_p}"
            )
        self.warp, self.rotate, self.zoom, self.each_p, self.flip_p = warp, rotate, zoom, p, flip_p

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw within an albumentations pipeline."""
        return self.sample(self.random_generator, data["size"])

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Any]:
        """Draw the transformation."""
        return {"homography": self.draw(rng), "size": size}

    def draw(self, rng: np.random.Generator) -> Matrix:
        """Draw a homography from output to input coordinates, both from -1 to 1."""
        # Always as many draws, all at once: one call costs as much as twelve numbers.
        warps, turns, zooms, flips, angle, scale, x, y, *corners = rng.random(12).tolist()
        a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0  # the first two rows of the matrix
        if turns < self.each_p:
            radians = math.radians(self.rotate * (2 * angle - 1))
            a = e = math.cos(radians)
            b, d = -math.sin(radians), math.sin(radians)
        if zooms < self.each_p:
            keep = 1 / (1 + (self.zoom - 1) * scale)
            x, y = (1 - keep) * (2 * x - 1), (1 - keep) * (2 * y - 1)
            c, f = a * x + b * y, d * x + e * y
            a, b, d, e = a * keep, b * keep, d * keep, e * keep
        matrix = np.array([[a, b, c], [d, e, f], [0.0, 0.0, 1.0]])
        if warps < self.each_p:
            matrix = matrix @ _corner_warp([self.warp * (2 * move - 1) for move in corners])
        if flips < self.flip_p:
            matrix[:, 0] *= -1
        return matrix

    def apply(self, img: GreyImage, homography: Matrix, size: int, **params: Any) -> GreyImage:
        """Resample the image to (size, size)."""
        return resample(img, homography, size)


class LogitBrightnessContrast(DirectTransform):
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
        """Draw within an albumentations pipeline."""
        return self.sample(self.random_generator, 0)

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Any]:
        """Draw the table of output grey levels by input grey level."""
        brightens, contrasts, change, power = rng.random(4).tolist()
        level = 0.5 + self.brightness * (2 * change - 1)
        shift = math.log(level / (1 - level)) if brightens < self.each_p else 0.0
        scale = (1 - self.contrast) ** (2 * power - 1) if contrasts < self.each_p else 1.0
        return {"table": self.table(shift, scale)}

    def table(self, shift: float, scale: float) -> GreyImage:
        """Grey levels (256,) after adding ``shift`` to the logits and multiplying them by ``scale``."""
        return np.rint(255 / (1 + np.exp(-(self._LOGITS + shift) * scale))).astype(np.uint8)

    def apply(self, img: GreyImage, table: GreyImage, **params: Any) -> GreyImage:
        """Look every grey level up."""
        return np.asarray(cv2.LUT(img, table), dtype=np.uint8)


def resize(image: GreyImage, size: int) -> GreyImage:
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
    to_unit, to_pixels = _unit_coordinates(width, height, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = to_pixels @ homography @ to_unit
    return np.asarray(cv2.warpPerspective(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101))


@lru_cache
def _unit_coordinates(width: int, height: int, size: int) -> tuple[Matrix, Matrix]:
    """Matrices from output pixels to coordinates from -1 to 1, and from those to input pixels."""
    to_unit = np.array([[2 / size, 0, 1 / size - 1], [0, 2 / size, 1 / size - 1], [0, 0, 1]])
    return to_unit, np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def _corner_warp(m: Sequence[float]) -> Matrix:
    """Homography that takes the moved corners back to the square's; fastai 1's ``symmetric_warp``."""
    moved = [[-1 - m[3], -1 - m[1]], [-1 - m[2], 1 + m[1]], [1 + m[3], -1 - m[0]], [1 + m[2], 1 + m[0]]]
    return np.asarray(cv2.getPerspectiveTransform(np.array(moved, dtype=np.float32), _CORNERS))
