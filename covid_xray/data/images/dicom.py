"""Reads a DICOM file as 8-bit grey, as a viewer displays it by default.

Only the elements that the pixels need are parsed. Names, dates and identifiers of the patient are not.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covid_xray.data.images.grey import GreyImage, ImageError, check_size, scale_to_8_bits
from covid_xray.errors import UserError

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NEEDED = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData"),
    *("DoubleFloatPixelData", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleIntercept"),
    *("RescaleSlope", "ModalityLUTSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("LUTDescriptor", "LUTData"),
]


def read_dicom(data: bytes, path: str | Path) -> GreyImage:
    """Decode the pixels, apply the modality transform and the first VOI table or window, and invert MONOCHROME1.

    Without a VOI table or window, `covid_xray.data.images.grey.scale_to_8_bits` scales the values.

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
    if _DEFLATED in data[132:2000]:  # inflates up to a thousandfold before its size is known
        raise ImageError(path, "it is deflated DICOM; convert it to another transfer syntax")
    dataset = pydicom.dcmread(BytesIO(data), force=data[128:132] != b"DICM", specific_tags=_NEEDED)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return dataset


def _decode(dataset: Any, path: str | Path) -> NDArray[Any]:
    from pydicom.pixels.utils import pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError(path, "it is DICOM without pixels, or not an image")
    check_size(
        path, int(dataset.get("Columns", 0)), int(dataset.get("Rows", 0)), int(dataset.get("NumberOfFrames") or 1)
    )
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not kind.startswith("YBR"):
        raise ImageError(path, f"its DICOM photometric interpretation {kind or '(none)'} is not supported")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        pixels = np.asarray(pixel_array(dataset))
    except Exception as error:  # each decoder of pydicom has its own exceptions
        what = f"compressed as {syntax.name}" if syntax.is_compressed else "damaged"
        reason = " ".join(str(error).split())[:160]
        raise ImageError(path, f"its DICOM pixels are {what} and cannot be decoded ({reason})") from None
    if pixels.ndim not in (2, 3) or pixels.size == 0 or not np.isfinite(pixels).all():
        raise ImageError(path, f"its DICOM pixels have the shape {pixels.shape} or are not finite")
    return pixels


def _show(dataset: Any, pixels: NDArray[Any]) -> GreyImage:
    if pixels.ndim == 3:
        return scale_to_8_bits(np.rint(pixels.astype(np.float64) @ (0.299, 0.587, 0.114)).astype(pixels.dtype))
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = np.asarray(apply_modality_lut(pixels, dataset))
    if dataset.get("VOILUTSequence"):
        table_bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        grey = np.asarray(apply_voi_lut(values, dataset)) * (255 / ((1 << table_bits) - 1))
        image = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        image = apply_window(values, _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
    else:
        # The modality transform turns integers into floats: integral values are scaled as integers.
        whole = (
            values.dtype.kind == "f" and bool((values == np.rint(values)).all()) and float(np.abs(values).max()) < 2**31
        )
        image = scale_to_8_bits(values.astype(np.int64) if whole else values)
    return np.asarray(255 - image if dataset.PhotometricInterpretation == "MONOCHROME1" else image, dtype=np.uint8)


def read_view(path: Path) -> str:
    """Return the view position (``PA``, ``AP``, ...) of a DICOM file; empty if it has none or cannot be read."""
    try:
        import pydicom

        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["ViewPosition"])
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


def _first(value: Any) -> float:
    """Return the first of several windows, which a viewer applies by default."""
    return float(value if isinstance(value, float | int | str) else value[0])
