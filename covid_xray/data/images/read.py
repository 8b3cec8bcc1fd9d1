"""Reads an image file as 8-bit grey, or raises an error with the reason.

OpenCV decodes ordinary PNG and JPEG files. Pillow, which is slower, decodes the others: transparency, CMYK, TIFF, WebP,
BMP and GIF; pydicom decodes DICOM. The content of a file decides its format; only DICOM without a preamble needs its
extension.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from covid_xray.data.images.grey import MAX_PIXELS, GreyImage, ImageError, check_size, read_bytes, scale_to_8_bits
from covid_xray.data.images.headers import JPEG_MAGIC, PNG_MAGIC, Header, jpeg_header, png_header

DICOM_EXTENSIONS = (".dcm", ".dicom")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", *DICOM_EXTENSIONS)
_PILLOW = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # the formats that are documented, and no others
_HOLE = 256  # zero bytes in a row, which a scan has only in a flat region or where its content was lost
# OpenCV must not log damaged files: `ImageError` gives the reason.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: str | Path) -> GreyImage:
    """Read an image file as grey, uint8, (height, width), upright (EXIF rotation applied); see `decode_image`.

    Raises:
        ImageError: If the file is missing, not a regular file, not readable, larger than 1 GiB, or cannot be decoded.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, path: str | Path) -> GreyImage:
    """Decode the content of an image file as grey, uint8, (height, width), upright (EXIF rotation applied).

    Colour is converted to luma. Transparent images are composited over black. Deeper grey is scaled by
    the depth that the file declares (`scale_to_8_bits`). For DICOM see `covid_xray.data.images.dicom.read_dicom`.

    Raises:
        ImageError: If the image is larger than `MAX_PIXELS` (checked in its header, before memory is allocated),
            truncated, damaged, of several frames, or of an unknown format.
    """
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
    if not header.ordinary and header.bits <= 8:
        return _read_with_pillow(data, path)
    return _read_with_opencv(data, path, header)


def looks_like_image(path: str | Path) -> bool:
    """Whether a regular file begins like an image of a known format; its pixels are not read."""
    try:
        if not Path(path).is_file() or not Path(path).stat().st_size:  # opening a pipe, or reading /proc, would block
            return False
        with Path(path).open("rb") as file:
            head = file.read(132)
    except (OSError, ValueError):
        return False
    is_bitmap = head[:2] == b"BM" and head[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    known = (PNG_MAGIC, JPEG_MAGIC, b"GIF8", b"II*\0", b"MM\0*")
    return head.startswith(known) or head[128:] == b"DICM" or is_bitmap or is_webp


def write_png(path: Path, image: GreyImage) -> None:
    """Write a grey image as PNG; unlike `cv2.imwrite`, raise an exception if the disk is full."""
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def _read_with_opencv(data: bytes, path: str | Path, header: Header) -> GreyImage:
    deep = header.bits > 8
    flags = cv2.IMREAD_GRAYSCALE if not deep else cv2.IMREAD_ANYDEPTH if header.ordinary else cv2.IMREAD_UNCHANGED
    image = _decode(data, flags)
    if image is None:
        raise ImageError(path, "its pixels are damaged")
    if header.end and _lacks_bytes(data, header.end, image):
        raise ImageError(path, "it is truncated: a part of its pixels is missing")
    if image.ndim == 3:  # colour and opacity, composited over black
        luma = image[..., :3].astype(np.float64) @ (0.114, 0.587, 0.299)
        image = np.rint(luma * (image[..., 3] / np.iinfo(image.dtype).max)).astype(image.dtype)
    elif header.transparent >= 0:
        image = np.where(image == header.transparent, 0, image).astype(image.dtype)
    return scale_to_8_bits(image)


def _decode(data: bytes, flags: int) -> Any:
    try:
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        return None


def _lacks_bytes(data: bytes, end: int, image: GreyImage) -> bool:
    """Whether the last scan of a JPEG file has too few bytes, or too many because zeros replace a part of it.

    A decoder fills the blocks whose bytes are missing with middle grey (128), and it decodes zeros as blocks. So only
    an image with such a corner, a run of zeros or several scans needs the test: bytes added to a complete scan change
    nothing, and bytes removed from it change the image.
    """
    start = data.rfind(b"\xff\xda", 0, end)
    hole = data.find(bytes(_HOLE), start, end) >= 0
    corners = image[:: max(len(image) - 1, 1), :: max(image.shape[1] - 1, 1)]
    grey = bool((corners == 128).any())
    if not (hole or grey or data.find(b"\xff\xda", 0, start) >= 0):
        return False
    # Pillow decodes the copies: OpenCV would print libjpeg's warnings about them.
    whole, longer = (_decode_quietly(content) for content in (data, data[:end] + b"\x55\xaa\x33\xcc" * 64 + data[end:]))
    if not np.array_equal(whole, longer):
        return True
    return hole and not grey and np.array_equal(whole, _decode_quietly(data[: end - 16] + data[end:]))


def _decode_quietly(data: bytes) -> Any:
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(image)
    except Exception:  # on damaged files Pillow raises nearly any exception
        return None


def _read_with_pillow(data: bytes, path: str | Path) -> GreyImage:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and about sizes that `check_size` checks
            # Without the list, Pillow would start Ghostscript on a file with the content of an EPS.
            with Image.open(BytesIO(data), formats=_PILLOW) as image:
                check_size(path, *image.size, frames=_frames(image))
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


def _frames(image: Any) -> int:
    """Return 1 for a file of one frame, 2 for several; to count them all may take minutes."""
    try:
        image.seek(1)
    except EOFError:
        return 1
    return 2


def _grey(image: Any, white_is_zero: bool, path: str | Path) -> GreyImage:
    """Convert a decoded Pillow image of any mode to grey."""
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image)
        if not np.isfinite(pixels).all():
            raise ImageError(path, "some of its pixels are NaN or infinite")
        deep = image.mode.startswith("I;16")
        grey = scale_to_8_bits(pixels.astype(np.uint16) if deep else pixels, _tiff_bits(image))
        return np.asarray(255 - grey if white_is_zero else grey, dtype=np.uint8)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        from PIL import Image

        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _is_white_zero(image: Any) -> bool:
    """Whether 0 is white in a TIFF file; Pillow inverts 8-bit files only."""
    return bool(image.format == "TIFF" and image.tag_v2.get(262) == 0)


def _tiff_bits(image: Any) -> int:
    """Return the bits per sample (tag 258) that a TIFF file declares; 16 for other formats."""
    return int(max(getattr(image, "tag_v2", {}).get(258) or [16]))
