"""Resizes and augments one image. This is the only module that imports albumentations, and only where it is used.

All random numbers come from the seed of the sample, not from a global generator. So the result does not depend on the
number of loader workers or on where a run was resumed.
"""

import hashlib
import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, Union

import cv2
import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError

if TYPE_CHECKING:
    import albumentations as A

Matrix = NDArray[np.float64]
# Albumentations' transforms that read files, or call functions, that their settings name.
_OPENS_FILES = ("FDA", "HistogramMatching", "Lambda", "PixelDistributionAdaptation", "TemplateTransform", "TextImage")
_THREAD = threading.local()
_CORNERS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.float32)


class Augmentation:
    """Transforms of this module and of albumentations as a pure function of image, size and seed.

    Args:
        transforms: Transforms, applied in order to the image before resizing. For those of albumentations,
            ``data["size"]`` holds the output size. If the image does not have this size after the transforms, it is
            resized. An empty sequence only resizes.
    """

    def __init__(self, transforms: Sequence["Transform"] = ()) -> None:
        for transform in transforms:
            if not isinstance(transform, DirectTransform) and not _is_foreign(type(transform)):
                raise UserError(f"augment.transforms: {transform!r} is not an albumentations transform")
        self.transforms = list(transforms)

    def __call__(self, image: GreyImage, size: int, seed: tuple[int, ...]) -> GreyImage:
        """Return the augmented image (size, size) of a grey uint8 image of any shape; the input is not changed."""
        rng = seeded_generator(seed) if self.transforms else None
        for transform in self.transforms:
            assert rng is not None
            if isinstance(transform, DirectTransform):
                image = transform.directly(image, size, rng)
            else:
                # With the same seed for all transforms, their draws would be correlated.
                transform.set_random_seed(int(rng.integers(1 << 32)))
                writeable = image if image.flags.writeable else image.copy()  # some transforms change it in place
                image = transform(image=writeable, size=size)["image"]
        return resize(image, size)


def is_albumentations(name: str) -> bool:
    """Whether an import path is that of a transform of albumentations that opens no file.

    The path may come from anyone. It is compared and never imported, because modules of albumentations lead to ``os``.
    """
    last = name.rpartition(".")[2]
    found = None if last in _OPENS_FILES else getattr(_albumentations(), last, None)
    if not (isinstance(found, type) and _is_foreign(found)):
        return False
    return name in (f"albumentations.{last}", f"{found.__module__}.{last}")


def _albumentations() -> Any:
    """The library, which takes a quarter of the time of torch to import."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no request to the network on import
    import albumentations

    return albumentations


def _is_foreign(kind: type) -> bool:
    """Whether a class is that of a transform, or of a composition, of albumentations."""
    library = _albumentations()
    return issubclass(kind, library.BasicTransform | library.BaseCompose)


def seeded_generator(seed: tuple[int, ...]) -> np.random.Generator:
    """Return a generator at the start of the stream of a seed; the next call in this thread invalidates it."""
    if not hasattr(_THREAD, "philox"):
        _THREAD.philox = np.random.Philox(key=0)
        _THREAD.generator, _THREAD.start = np.random.Generator(_THREAD.philox), _THREAD.philox.state
    # Creating a generator takes a tenth of the time of the warp; resetting a counter-based one is faster.
    key = hashlib.blake2b(repr(tuple(map(int, seed))).encode(), digest_size=16).digest()
    _THREAD.start["state"]["key"][:] = np.frombuffer(key, dtype="<u8")
    _THREAD.philox.state = _THREAD.start
    generator: np.random.Generator = _THREAD.generator
    return generator


class DirectTransform:
    """A transform without the overhead of albumentations.

    Attributes:
        params: What was drawn last.
        apply: Method that returns the changed image, from the image and from what was drawn.
    """

    params: dict[str, Any]
    apply: Callable[..., GreyImage]

    @property
    def available_keys(self) -> NoReturn:
        """Albumentations asks for this if the transform is in one of its compositions, where it cannot be.

        Raises:
            UserError: Always.
        """
        name = type(self).__name__
        raise UserError(f"augment: {name} cannot be in a composition of albumentations; list it in augment.transforms")

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Any]:
        """Draw the parameters of `apply`."""
        raise NotImplementedError

    def directly(self, image: GreyImage, size: int, rng: np.random.Generator) -> GreyImage:
        """Draw and apply."""
        self.params = self.sample(rng, size)
        return np.asarray(self.apply(image, **self.params), dtype=np.uint8)


Transform = Union[DirectTransform, "A.BasicTransform", "A.BaseCompose"]


class ResizeWarp(DirectTransform):
    """Resize, perspective warp, rotation, zoom and flip in one bilinear resampling with reflection padding.

    The transforms are those of fastai 1 (``symmetric_warp``, ``rotate``, ``rand_zoom``, ``flip_lr``). Coordinates are
    from -1 to 1 along both sides, so rotation acts on the resized image.

    Args:
        warp: Maximum shift of each corner; four values are drawn from U(-warp, warp).
        rotate: Maximum angle in degrees, in both directions.
        zoom: Maximum magnification, about a random point.
        p: Probability of each of the three.
        flip_p: Probability of a horizontal flip.
    """

    def __init__(
        self, warp: float = 0.2, rotate: float = 10.0, zoom: float = 1.1, p: float = 0.75, flip_p: float = 0.5
    ) -> None:
        if not (0 <= warp < 0.5 and 0 <= rotate <= 180 and zoom >= 1 and 0 <= p <= 1 and 0 <= flip_p <= 1):
            raise UserError(
                f"augment: ResizeWarp needs warp in [0, 0.5), rotate in [0, 180], zoom of at least 1 and p, flip_p in "
                f"[0, 1], not warp={warp}, rotate={rotate}, zoom={zoom}, p={p}, flip_p={flip_p}"
            )
        self.warp, self.rotate, self.zoom, self.p, self.flip_p = warp, rotate, zoom, p, flip_p

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Any]:
        """Draw the transformation."""
        return {"homography": self.draw(rng), "size": size}

    def draw(self, rng: np.random.Generator) -> Matrix:
        """Draw a homography from output to input coordinates, both from -1 to 1."""
        # One call draws all numbers: a call takes as long as drawing twelve numbers.
        warps, turns, zooms, flips, angle, scale, x, y, *corners = rng.random(12).tolist()
        a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0  # first two rows of the matrix
        if turns < self.p:
            radians = math.radians(self.rotate * (2 * angle - 1))
            a = e = math.cos(radians)
            b, d = -math.sin(radians), math.sin(radians)
        if zooms < self.p:
            keep = 1 / (1 + (self.zoom - 1) * scale)
            x, y = (1 - keep) * (2 * x - 1), (1 - keep) * (2 * y - 1)
            c, f = a * x + b * y, d * x + e * y
            a, b, d, e = a * keep, b * keep, d * keep, e * keep
        matrix = np.array([[a, b, c], [d, e, f], [0.0, 0.0, 1.0]])
        if warps < self.p:
            matrix = matrix @ _corner_warp([self.warp * (2 * move - 1) for move in corners])
        if flips < self.flip_p:
            matrix[:, 0] *= -1
        return matrix

    def apply(self, img: GreyImage, homography: Matrix, size: int, **params: Any) -> GreyImage:
        """Resample the image to (size, size)."""
        return resample(img, homography, size)


class LogitBrightnessContrast(DirectTransform):
    """Add brightness and multiply contrast in logit space, as ``brightness`` and ``contrast`` of fastai 1.

    Args:
        brightness: The transform adds logit(U(0.5 - brightness, 0.5 + brightness)).
        contrast: It multiplies the logits by a log-uniform number from (1 - contrast, 1 / (1 - contrast)).
        p: Probability of each of the two.
    """

    _LEVELS = np.clip(np.arange(256) / 255, 1e-7, 1 - 1e-7)
    _LOGITS = np.log(_LEVELS / (1 - _LEVELS))

    def __init__(self, brightness: float = 0.1, contrast: float = 0.2, p: float = 0.75) -> None:
        if not (0 <= brightness < 0.5 and 0 <= contrast < 1 and 0 <= p <= 1):
            raise UserError(
                f"augment: LogitBrightnessContrast needs brightness in [0, 0.5), contrast in [0, 1) and p in [0, 1], "
                f"not brightness={brightness}, contrast={contrast}, p={p}"
            )
        self.brightness, self.contrast, self.p = brightness, contrast, p

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Any]:
        """Draw the lookup table."""
        brightens, contrasts, change, power = rng.random(4).tolist()
        level = 0.5 + self.brightness * (2 * change - 1)
        shift = math.log(level / (1 - level)) if brightens < self.p else 0.0
        scale = (1 - self.contrast) ** (2 * power - 1) if contrasts < self.p else 1.0
        return {"table": self.table(shift, scale)}

    def table(self, shift: float, scale: float) -> GreyImage:
        """Return the lookup table (256,) that adds ``shift`` to the logits and multiplies them by ``scale``."""
        return np.rint(255 / (1 + np.exp(-(self._LOGITS + shift) * scale))).astype(np.uint8)

    def apply(self, img: GreyImage, table: GreyImage, **params: Any) -> GreyImage:
        """Apply the lookup table."""
        return np.asarray(cv2.LUT(img, table), dtype=np.uint8)


def resample(image: GreyImage, homography: Matrix, size: int) -> GreyImage:
    """Resample to (size, size), bilinear with reflection padding.

    An image of at least twice the size is reduced by an area average first.

    Args:
        image: Grey image (height, width), uint8.
        homography: Matrix (3, 3) from output to input coordinates, both from -1 to 1 along each side.
        size: Side of the result in pixels.
    """
    height, width = image.shape
    # Bilinear sampling reads 2 x 2 pixels and would skip others (fastai 1 averages first, too).
    if min(height, width) >= 2 * size:
        height, width = height * size // min(height, width), width * size // min(height, width)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    to_unit, to_pixels = _unit_coordinates(width, height, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = to_pixels @ homography @ to_unit
    return np.asarray(cv2.warpPerspective(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101))


@lru_cache
def _unit_coordinates(width: int, height: int, size: int) -> tuple[Matrix, Matrix]:
    """Return the matrices from output pixels to coordinates from -1 to 1, and from these to input pixels."""
    to_unit = np.array([[2 / size, 0, 1 / size - 1], [0, 2 / size, 1 / size - 1], [0, 0, 1]])
    return to_unit, np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def _corner_warp(m: Sequence[float]) -> Matrix:
    """Return the homography from the moved corners to those of the square, as ``symmetric_warp`` of fastai 1."""
    moved = [[-1 - m[3], -1 - m[1]], [-1 - m[2], 1 + m[1]], [1 + m[3], -1 - m[0]], [1 + m[2], 1 + m[0]]]
    return np.asarray(cv2.getPerspectiveTransform(np.array(moved, dtype=np.float32), _CORNERS))
