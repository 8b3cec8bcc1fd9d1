"""Reads a DICOM file as 8-bit grey, as a viewer displays it by default.

Only the elements that the pixels need are parsed. Names, dates and identifiers of the patient are not.
"""

import math
import struct
import warnings
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images.grey import GreyImage, ImageError, check_file, check_size, scale_range, scale_to_8_bits
from covid_xray.data.images.headers import MAX_SCANS, run_length, stream_size
from covid_xray.errors import UserError

_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")  # the whole file, or each frame
_NEEDED = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData"),
    *("DoubleFloatPixelData", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleIntercept"),
    *("RescaleSlope", "ModalityLUTSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("LUTDescriptor", "LUTData", "PixelPaddingValue", "PixelPaddingRangeLimit"),
]


def read_dicom(data: bytes, path: str | Path) -> GreyImage:
    """Decode the pixels, apply the modality transform and the first VOI table or window, and invert MONOCHROME1.

    Without a VOI table or window, the range that BitsStored declares is mapped to 0 to 255, so the grey of a pixel does
    not depend on the other pixels. Padding (PixelPaddingValue) is black. An element that is empty or not a finite
    number counts as absent, and so does a width, slope or number of bits that is impossible (0, for example).

    Args:
        data: Content of the file.
        path: Path of the file, for error messages.

    Raises:
        ImageError: If the file has no pixels, several frames, or pixels that cannot be decoded.
        UserError: If pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise UserError(f"image {path} is DICOM; install pydicom to read it: pip install 'covid-xray[dicom]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about small faults in elements
            dataset = _parse(pydicom, data, path)
            return _show(dataset, _decode(dataset, path))
    except ImageError:
        raise
    except Exception as error:  # on damaged files pydicom raises nearly any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"its DICOM content is damaged ({reason[:200]})") from None


def _parse(pydicom: Any, data: bytes, path: str | Path) -> Any:
    dataset = _read(pydicom, BytesIO(data), path, _NEEDED)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return dataset


def _read(pydicom: Any, content: BinaryIO, path: str | Path, tags: list[str], **options: Any) -> Any:
    """Parse some elements of a file; a deflated file could grow a thousandfold before its size is known."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    force = read_preamble(content, force=True) is None
    if str(_read_file_meta_info(content).get("TransferSyntaxUID", "")).strip() in _DEFLATED:
        raise ImageError(path, "it is deflated DICOM; convert it to another transfer syntax")
    content.seek(0)
    return pydicom.dcmread(content, force=force, specific_tags=tags, **options)


def _decode(dataset: Any, path: str | Path) -> NDArray[Any]:
    from pydicom.pixels.utils import pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError(path, "it is DICOM without pixels, or not an image")
    width, height, frames = (int(_number(dataset, name) or 0) for name in ("Columns", "Rows", "NumberOfFrames"))
    check_size(path, width, height, max(frames, 1))
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not kind.startswith("YBR"):
        raise ImageError(path, f"its DICOM photometric interpretation {kind or '(none)'} is not supported")
    _complete(dataset, kind)
    if dataset.SamplesPerPixel not in (1, 3):
        raise ImageError(path, f"its DICOM pixels have {dataset.SamplesPerPixel} samples; only 1 and 3 are supported")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        _refuse_bomb(dataset, path, width, height)
    try:
        pixels = np.asarray(pixel_array(dataset))
    except Exception as error:  # each decoder of pydicom has its own exceptions
        what = f"compressed as {syntax.name}" if syntax.is_compressed else "damaged"
        reason = " ".join(str(error).split())[:160]
        raise ImageError(path, f"its DICOM pixels are {what} and cannot be decoded ({reason})") from None
    if pixels.ndim not in (2, 3) or pixels.size == 0 or not np.isfinite(pixels).all():
        raise ImageError(path, f"its DICOM pixels have the shape {pixels.shape} or are not finite")
    return pixels


def _refuse_bomb(dataset: Any, path: str | Path, width: int, height: int) -> None:
    """Refuse compressed pixels that expand to another size than the elements declare, before they are decoded."""
    from pydicom.encaps import generate_frames
    from pydicom.uid import RLELossless

    frame = next(generate_frames(dataset.PixelData, number_of_frames=1), b"")
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        count, *starts = struct.unpack_from("<16I", frame.ljust(64, b"\0"))
        starts = [*starts[: min(count, 15)], len(frame)]
        limit = 2 * width * height  # decoders ignore padding at the end of a segment
        if any(run_length(frame[a:b], limit) > limit for a, b in pairwise(starts)):
            raise ImageError(path, f"its DICOM pixels expand to more than the {width} x {height} that it declares")
    elif (size := stream_size(frame)) != (width, height):
        found = f"{size[0]} x {size[1]}" if any(size) else "no JPEG or JPEG 2000 image"
        raise ImageError(path, f"its DICOM pixels are {found}, but it declares {width} x {height}")
    elif frame.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(path, f"its DICOM pixels have more than {MAX_SCANS} scans")


def _complete(dataset: Any, kind: str) -> None:
    """Set the elements that describe the pixels where they are absent, empty or impossible."""
    allocated = int(_number(dataset, "BitsAllocated") or 0)
    if "PixelData" in dataset:
        stored = int(_number(dataset, "BitsStored") or 0)
        dataset.BitsStored = stored if 0 < stored <= allocated else allocated
        dataset.HighBit = dataset.BitsStored - 1
    dataset.SamplesPerPixel = int(_number(dataset, "SamplesPerPixel") or (1 if kind.startswith("MONO") else 3))
    dataset.PixelRepresentation = int(_number(dataset, "PixelRepresentation") == 1)
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = int(_number(dataset, "PlanarConfiguration") == 1)
    if "NumberOfFrames" in dataset:
        dataset.NumberOfFrames = 1  # `check_size` refuses more


def _show(dataset: Any, pixels: NDArray[Any]) -> GreyImage:
    if pixels.ndim == 3:
        luma = np.rint(pixels.astype(np.float64) @ (0.299, 0.587, 0.114))
        return scale_range(luma, 0, (1 << dataset.BitsStored) - 1)
    values, low, high = _modality(dataset, pixels)
    padding = _padding(dataset, pixels)
    window = _window(dataset)
    if (table := _table(dataset, "VOILUTSequence")) is not None:
        image = scale_range(_look_up(table, values), 0, _white(table[0]))
    elif window is not None:
        image = apply_window(values, *window, str(dataset.get("VOILUTFunction") or "LINEAR"))
    else:
        image = scale_range(values, low, high) if high > low else _scale_by_content(values, padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = np.asarray(255 - image, dtype=np.uint8)
    image[padding] = 0
    return image


def _modality(dataset: Any, pixels: NDArray[Any]) -> tuple[NDArray[Any], float, float]:
    """Return the values after the modality transform, and the range that the file declares for them.

    The range is empty (0 to 0) where the file declares none: for floats, and for signed integers that use all bits of
    their type, which is wider than any detector's range.
    """
    if (table := _table(dataset, "ModalityLUTSequence")) is not None:
        return _look_up(table, pixels), 0, _white(table[0])
    slope, intercept = _number(dataset, "RescaleSlope") or 1.0, _number(dataset, "RescaleIntercept") or 0.0
    signed = pixels.dtype.kind == "i"
    declared = pixels.dtype.kind == "u" or (signed and dataset.BitsStored < dataset.BitsAllocated)
    bits = dataset.BitsStored if declared else 0
    first = -(1 << (bits - 1)) if declared and signed else 0
    ends = (first * slope + intercept, (first + (1 << bits) - 1) * slope + intercept)
    return pixels.astype(np.float64) * slope + intercept, min(ends), max(ends)


def _scale_by_content(values: NDArray[Any], padding: NDArray[np.bool_]) -> GreyImage:
    """Scale values of no declared range as those without padding: 0 to 1, 0 to 255, or their minimum to maximum."""
    inside = values[~padding]
    return scale_to_8_bits(np.clip(values, inside.min(), inside.max()) if inside.size else values)


def _table(dataset: Any, name: str) -> tuple[NDArray[Any], int] | None:
    """Return the entries of a lookup table and the value that the first one is for; None if the table has no entries.

    The number of bits in the descriptor is ignored: some devices declare 16 for entries of 12 bits (`_white`).
    """
    item = (dataset.get(name) or [None])[0]
    descriptor, data = (item.get("LUTDescriptor"), item.get("LUTData")) if item is not None else (None, None)
    if not descriptor or data is None or not len(data):
        return None
    count, first = int(descriptor[0]) % 65536 or 65536, int(descriptor[1])
    if isinstance(data, bytes):
        two_bytes = "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"
        data = np.frombuffer(data, np.uint8 if len(data) in (count, count + count % 2) else two_bytes)
    entries = np.atleast_1d(np.asarray(data)).astype(np.int64)[:count] % 65536
    # The descriptor's type may be unsigned although the values are signed.
    return entries, first - 65536 if dataset.PixelRepresentation and first > 32767 else first


def _look_up(table: tuple[NDArray[Any], int], values: NDArray[Any]) -> NDArray[Any]:
    entries, first = table
    return np.asarray(entries[np.clip(np.rint(values - float(first)), 0, len(entries) - 1).astype(np.int64)])


def _white(entries: NDArray[Any]) -> int:
    """Return the largest value of as many bits as the entries use."""
    return (1 << max(int(entries.max()).bit_length(), 1)) - 1


def _window(dataset: Any) -> tuple[float, float] | None:
    """Return center and width of the first possible window, which a viewer applies by default."""
    minimum = 1.0 if str(dataset.get("VOILUTFunction") or "LINEAR") not in ("LINEAR_EXACT", "SIGMOID") else 1e-9
    pairs = zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False)
    return next(((c, w) for c, w in pairs if math.isfinite(c) and math.isfinite(w) and w >= minimum), None)


def _padding(dataset: Any, pixels: NDArray[Any]) -> NDArray[np.bool_]:
    value, limit = _number(dataset, "PixelPaddingValue"), _number(dataset, "PixelPaddingRangeLimit")
    if value is None or pixels.dtype.kind not in "iu":
        return np.zeros(pixels.shape, dtype=np.bool_)
    # Some files declare the padding as unsigned although the pixels are signed, or the reverse.
    ends = np.array([value, value if limit is None else limit]).astype(np.int64).astype(pixels.dtype)
    return np.asarray((pixels >= ends.min()) & (pixels <= ends.max()), dtype=np.bool_)


def _numbers(dataset: Any, name: str) -> list[float]:
    value = dataset.get(name)
    if value is None or value == "":
        return []
    return [float(item) for item in ([value] if isinstance(value, float | int | str) else value)]


def _number(dataset: Any, name: str) -> float | None:
    """Return the first value of an element; None if it is absent, empty or not finite."""
    return next((value for value in _numbers(dataset, name)[:1] if math.isfinite(value)), None)


def read_view(path: Path) -> str:
    """Return the view position (``PA``, ``AP``, ...) of a DICOM file; empty if it has none or cannot be read."""
    try:
        import pydicom

        check_file(path)
        with path.open("rb") as file:  # the pixels are not read
            header = _read(pydicom, file, path, ["ViewPosition"], stop_before_pixels=True)
        return str(header.get("ViewPosition") or "").strip()
    except Exception:  # `read_dicom` reports what is wrong with the file
        return ""


def apply_window(values: NDArray[Any], center: float, width: float, function: str = "LINEAR") -> GreyImage:
    """Map grey values to 0 to 255 with a VOI window.

    Source: DICOM PS3.3 C.11.2.1.2 (functions LINEAR, LINEAR_EXACT and SIGMOID).
    """
    values = values.astype(np.float64)
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        shown = (values - center) / width + 0.5
    else:
        shown = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
