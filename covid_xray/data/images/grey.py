"""The image type (8-bit grey), its limits, and the error for a file that cannot be read."""

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covid_xray.errors import UserError

GreyImage = NDArray[np.uint8]
MAX_BYTES = 1 << 30
MAX_PIXELS = 80_000_000  # five times the largest detectors; decoding needs a few bytes per pixel


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


def read_bytes(path: str | Path) -> bytes:
    """Read an image file of any format.

    Raises:
        ImageError: If it is missing, not readable, empty, larger than `MAX_BYTES`, or no regular file.
    """
    try:
        check_file(path)
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None
    except ImageError:
        raise
    except ValueError:  # a null byte, or a surrogate that the file system cannot encode
        raise ImageError(path, "its name is not a valid file name") from None
    if not data:
        raise ImageError(path, "it is empty")
    return data


def check_file(path: str | Path) -> None:
    """Check that a file can be opened and read to its end.

    Raises:
        ImageError: If it is empty, larger than `MAX_BYTES`, or no regular file.
        OSError: If it is missing.
    """
    status = os.stat(path)  # noqa: PTH116 pathlib costs time for every image of every epoch
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block; a device has no end
        raise ImageError(path, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
    if status.st_size == 0:  # not opened: reading some files of /proc, which declare no size, would block
        raise ImageError(path, "it is empty")
    if status.st_size > MAX_BYTES:
        raise ImageError(path, f"it has {status.st_size:,} bytes; the limit is {MAX_BYTES:,}")


def scale_to_8_bits(pixels: NDArray[Any], bits: int = 16) -> GreyImage:
    """Scale grey values of any type to uint8.

    - Unsigned integers of 16 bits are scaled from the depth that the file declares. So the grey of a pixel does not
      depend on the brightest pixel.
    - Floats from 0 to 1 are multiplied by 255. Floats from 0 to 255 are rounded.
    - Other values, of no declared range, are scaled linearly: the minimum to 0, the maximum to 255.

    Args:
        pixels: Finite values, at least one.
        bits: Declared depth of integers of 16 bits.
    """
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, dtype=np.uint8)
    if pixels.dtype == np.uint16:
        return scale_range(pixels, 0, (1 << bits) - 1)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255 or pixels.dtype.kind != "f":
        return scale_range(pixels, low, high)
    return np.asarray(np.rint(pixels * (255 if high <= 1 else 1)), dtype=np.uint8)


def scale_range(pixels: NDArray[Any], low: float, high: float) -> GreyImage:
    """Map ``low`` to ``high`` linearly to 0 to 255, and clip the values outside. An empty range becomes 0."""
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip((pixels.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)


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
