"""Reads an image file as 8-bit grey, or raises an error with the reason.

OpenCV decodes ordinary PNG and JPEG files. Pillow, which is slower, decodes the others: transparency, CMYK, TIFF, WebP,
BMP and GIF; pydicom decodes DICOM. The content of a file decides its format; only DICOM without a preamble needs its
extension.
"""

import os
import stat
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from covid_xray.data.images.grey import MAX_PIXELS, GreyImage, ImageError, check_size, scale_to_8_bits
from covid_xray.data.images.headers import JPEG_MAGIC, PNG_MAGIC, Header, jpeg_header, png_header

DICOM_EXTENSIONS = (".dcm", ".dicom")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", *DICOM_EXTENSIONS)
MAX_BYTES = 1 << 30
# OpenCV must not log damaged files: `ImageError` gives the reason.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: str | Path) -> GreyImage:
    """Read an image file as grey, uint8, (height, width), upright (EXIF rotation applied).

    Colour is converted to luma. Transparent images are composited over black. Deeper grey is scaled by
    `scale_to_8_bits`. For DICOM see `covid_xray.data.images.dicom.read_dicom`.

    Raises:
        ImageError: If the file is missing, not a regular file, not readable, larger than `MAX_BYTES`, larger than
            `MAX_PIXELS` (checked in its header, before memory is allocated), truncated, damaged, of several frames, or
            of an unknown format.
    """
    data = _read_bytes(path)
    if data.startswith(JPEG_MAGIC):
        header = jpeg_header(data)
    elif data.startswith(PNG_MAGIC):
        header = png_header(data)
    elif data[128:132] == b"DICM" or (str(path).lower().endswith(DICOM_EXTENSIONS) and data):
        from covid_xray.data.images.dicom import read_dicom

        return read_dicom(data, path)
    else:
        return _read_with_pillow(data, path)
    if header.fault:
        raise ImageError(path, header.fault)
    check_size(path, header.width, header.height, header.frames)
    if not header.ordinary:
        return _read_with_pillow(data, path)
    return _read_with_opencv(data, path, header)


def write_png(path: Path, image: GreyImage) -> None:
    """Write a grey image as PNG."""
    cv2.imwrite(str(path), image)


def _read_bytes(path: str | Path) -> bytes:
    try:
        status = os.stat(path)  # noqa: PTH116 pathlib costs time for every image of every epoch
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
            raise ImageError(path, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(path, f"it has {status.st_size:,} bytes; the limit is {MAX_BYTES:,}")
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read()
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None
    except ImageError:
        raise
    except ValueError:  # a null byte, or a surrogate that the file system cannot encode
        raise ImageError(path, "its name is not a valid file name") from None
    if not data:
        raise ImageError(path, "it is empty")
    return data


def _read_with_opencv(data: bytes, path: str | Path, header: Header) -> GreyImage:
    flags = cv2.IMREAD_GRAYSCALE if header.bits <= 8 else cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(path, "its pixels are damaged")
    return scale_to_8_bits(np.asarray(image))


def _read_with_pillow(data: bytes, path: str | Path) -> GreyImage:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and about sizes that `check_size` checks
            with Image.open(BytesIO(data)) as image:
                check_size(path, *image.size, frames=getattr(image, "n_frames", 1))
                image.load()
                return _grey(ImageOps.exif_transpose(image), _is_white_zero(image), path)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(path, f"its header declares more than {MAX_PIXELS // 10**6} million pixels") from None
    except UnidentifiedImageError:
        raise ImageError(path, "it is no image of a known format") from None
    except Exception as error:  # on damaged files Pillow raises nearly any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"its pixels are damaged ({reason[:200]})") from None


def _grey(image: Any, white_is_zero: bool, path: str | Path) -> GreyImage:
    """Convert a decoded Pillow image of any mode to grey."""
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image)
        if not np.isfinite(pixels).all():
            raise ImageError(path, "some of its pixels are NaN or infinite")
        grey = scale_to_8_bits(pixels)
        return np.asarray(255 - grey if white_is_zero else grey, dtype=np.uint8)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        from PIL import Image

        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _is_white_zero(image: Any) -> bool:
    """Whether 0 is white in a TIFF file; Pillow inverts 8-bit files only."""
    return bool(image.format == "TIFF" and image.tag_v2.get(262) == 0)
