"""What an image is here: 8-bit grey, of a sane size; and the error that says why a file gives none."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covid_xray.errors import UserError

GreyImage = NDArray[np.uint8]
MAX_PIXELS = 80_000_000  # five times the largest detectors; decoding needs a few bytes for each
_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of detectors and their digitisers


class ImageError(UserError):
    """An image file that cannot be read.

    Args:
        path: The file.
        reason: Why, as the end of a sentence that begins with the file's name.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        name = str(path) if str(path).isprintable() else repr(str(path))
        super().__init__(f"image {name} cannot be read: {reason}; mend or remove it")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way back from a worker process."""
        return ImageError, (self.path, self.reason)


def scale_to_8_bits(pixels: NDArray[Any]) -> GreyImage:
    """Scale grey values of any type to uint8, by the range that they are in.

    - Whole numbers from 0: by the smallest depth of 8, 10, 12, 14 or 16 bits that holds the largest, so that 12-bit
      pixels in a 16-bit file do not come out black, and the same exposure keeps the same grey.
    - Fractions from 0 to 1: times 255. Fractions from 0 to 255: rounded.
    - Anything else (negative or larger values): lowest to 0, highest to 255.

    Args:
        pixels: Finite values, not empty.
    """
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, dtype=np.uint8)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 65535 or (pixels.dtype.kind == "f" and high > 255):
        scale = 255 / (high - low) if high > low else 0.0
        return np.rint((pixels.astype(np.float64) - low) * scale).astype(np.uint8)
    if pixels.dtype.kind == "f":
        return np.asarray(np.rint(pixels * (255 if high <= 1 else 1)), dtype=np.uint8)
    depth = next(bits for bits in _BIT_DEPTHS if high < 1 << bits)
    if depth == 8:
        return np.asarray(pixels, dtype=np.uint8)
    return np.rint(pixels * np.float32(255 / ((1 << depth) - 1))).astype(np.uint8)


def check_size(path: str | Path, width: int, height: int, frames: int = 1) -> None:
    """Refuse what is no single image of a sane size.

    Raises:
        ImageError: With the reason.
    """
    if frames != 1:
        raise ImageError(path, f"it holds {frames} frames, and which one to take is not known")
    if width < 1 or height < 1:
        raise ImageError(path, f"its header says {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(path, f"its header says {width} x {height} pixels; the limit is {MAX_PIXELS // 10**6} million")
