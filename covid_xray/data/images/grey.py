"""The image type (8-bit grey), its limits, and the error for a file that cannot be read."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covid_xray.errors import UserError

GreyImage = NDArray[np.uint8]
MAX_PIXELS = 80_000_000  # five times the largest detectors; decoding needs a few bytes per pixel
_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of detectors and their digitisers


class ImageError(UserError):
    """An image file that cannot be read.

    Args:
        path: The file.
        reason: Why, as a clause that follows "image <path> cannot be read:".
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        name = str(path) if str(path).isprintable() else repr(str(path))
        super().__init__(f"image {name} cannot be read: {reason}; repair or remove the file")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the error picklable, so that a worker process can raise it."""
        return ImageError, (self.path, self.reason)


def scale_to_8_bits(pixels: NDArray[Any]) -> GreyImage:
    """Scale grey values of any type to uint8, depending on their range.

    - Integers from 0 to 65,535 are scaled from the smallest bit depth (8, 10, 12, 14 or 16) that holds the maximum. So
      12-bit pixels in a 16-bit file do not become black, and the same exposure gives the same grey value.
    - Floats from 0 to 1 are multiplied by 255. Floats from 0 to 255 are rounded.
    - Other values (negative or larger) are scaled linearly: the minimum to 0, the maximum to 255.

    Args:
        pixels: Finite values, at least one.
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
    """Check that a file holds one frame of 1 to `MAX_PIXELS` pixels.

    Raises:
        ImageError: If it does not.
    """
    if frames != 1:
        raise ImageError(path, f"it holds {frames} frames; only files of one frame are supported")
    if width < 1 or height < 1:
        raise ImageError(path, f"its header declares {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        limit = f"the limit is {MAX_PIXELS // 10**6} million"
        raise ImageError(path, f"its header declares {width} x {height} pixels; {limit}")
