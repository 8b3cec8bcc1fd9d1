"""Grey levels of DICOM files: every element absent, empty and contradictory, against pydicom and computed values."""

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom_bytes
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array

from covid_xray.data.images.dicom import read_dicom

VALUES = np.array([[0, 1, 255, 256], [1000, 1020, 1030, 2000], [2048, 3000, 4094, 4095]], dtype=np.uint16)
PLAIN = VALUES / 4095 * 255
WINDOW = {"WindowCenter": "2000", "WindowWidth": "1500"}
WINDOWED = np.clip((VALUES - 1999.5) / 1499 + 0.5, 0, 1) * 255
SIGNED = VALUES.astype(np.int16) - 2048


def read(pixels: np.ndarray = VALUES, **elements: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns when it writes invalid values
        content = dicom_bytes(pixels, **({"BitsStored": 12, "HighBit": 11} | elements))
    return read_dicom(content, "a.dcm").astype(float)


def lut(entries: Any, bits: int, first: int = 0, kind: str = "<u2", **changed: Any) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.rint(entries).astype(kind).tobytes())
    for name, value in changed.items():
        item.add_new(name, "US", value)
    return item


IDENTITY = np.arange(4096)
# Elements, expected grey levels.
TABLE: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "nothing": ({}, PLAIN),
    "bits stored absent": ({"BitsStored": None}, VALUES / 257),
    "bits stored empty": ({"BitsStored": ""}, VALUES / 257),
    "bits stored 0": ({"BitsStored": 0}, VALUES / 257),
    "bits stored above allocated": ({"BitsStored": 64}, VALUES / 257),
    "high bit absent": ({"HighBit": None}, PLAIN),
    "high bit contradictory": ({"HighBit": 3}, PLAIN),
    "samples absent": ({"SamplesPerPixel": None}, PLAIN),
    "samples empty": ({"SamplesPerPixel": ""}, PLAIN),
    "representation absent": ({"PixelRepresentation": None}, PLAIN),
    "representation empty": ({"PixelRepresentation": ""}, PLAIN),
    "frames empty": ({"NumberOfFrames": ""}, PLAIN),
    "frames 0": ({"NumberOfFrames": "0"}, PLAIN),
    "monochrome1": ({"PhotometricInterpretation": "MONOCHROME1"}, 255 - PLAIN),
    "slope and intercept": ({"RescaleSlope": "2", "RescaleIntercept": "-1024"}, PLAIN),
    "slope negative": ({"RescaleSlope": "-1", "RescaleIntercept": "4095"}, 255 - PLAIN),
    "slope 0": (
        {"RescaleSlope": "0", "RescaleIntercept": "5", **WINDOW},
        np.clip((VALUES - 1994.5) / 1499 + 0.5, 0, 1) * 255,
    ),
    "slope empty": ({"RescaleSlope": "", "RescaleIntercept": "0", **WINDOW}, WINDOWED),
    "slope nan": ({"RescaleSlope": "nan", "RescaleIntercept": "nan", **WINDOW}, WINDOWED),
    "intercept empty": ({"RescaleSlope": "1", "RescaleIntercept": "", **WINDOW}, WINDOWED),
    "intercept absent": (
        {"RescaleSlope": "2", "WindowCenter": "4000", "WindowWidth": "3000", "VOILUTFunction": "LINEAR_EXACT"},
        np.clip((2.0 * VALUES - 4000) / 3000 + 0.5, 0, 1) * 255,
    ),
    "window": (WINDOW, WINDOWED),
    "window, function empty": ({**WINDOW, "VOILUTFunction": ""}, WINDOWED),
    "center empty": ({**WINDOW, "WindowCenter": ""}, PLAIN),
    "center nan": ({**WINDOW, "WindowCenter": "nan"}, PLAIN),
    "center absent": ({"WindowWidth": "1500"}, PLAIN),
    "width empty": ({**WINDOW, "WindowWidth": ""}, PLAIN),
    "width 0": ({**WINDOW, "WindowWidth": "0"}, PLAIN),
    "width negative": ({**WINDOW, "WindowWidth": "-5"}, PLAIN),
    "width nan": ({**WINDOW, "WindowWidth": "nan"}, PLAIN),
    "width 0.5, exact": (
        {"WindowCenter": "1000", "WindowWidth": "0.5", "VOILUTFunction": "LINEAR_EXACT"},
        np.where(VALUES < 1000, 0, np.where(VALUES > 1000, 255, 127.5)),
    ),
    "first of two windows impossible": ({"WindowCenter": ["9", "2000"], "WindowWidth": ["0", "1500"]}, WINDOWED),
    "more centers than widths": ({"WindowCenter": ["2000", "9"], "WindowWidth": "1500"}, WINDOWED),
    "voi table": ({"VOILUTSequence": [lut(4095 - IDENTITY, 12)]}, 255 - PLAIN),
    "voi table of 16 bits": ({"VOILUTSequence": [lut(IDENTITY * (65535 / 4095), 16)]}, PLAIN),
    "voi table with 12 of 16 bits": ({"VOILUTSequence": [lut(IDENTITY, 16)]}, PLAIN),
    "voi table with 16 of 12 bits": ({"VOILUTSequence": [lut(IDENTITY * (65535 / 4095), 12)]}, PLAIN),
    "voi table of 8 bits in bytes": ({"VOILUTSequence": [lut(IDENTITY / 4095 * 255, 8, kind="u1")]}, PLAIN),
    "voi table that starts at 1000": (
        {"VOILUTSequence": [lut(np.linspace(0, 4095, 1031), 12, 1000)]},
        np.clip((VALUES - 1000.0) / 1030, 0, 1) * 255,
    ),
    "voi table before the window": ({"VOILUTSequence": [lut(IDENTITY, 12)], **WINDOW}, PLAIN),
    "voi sequence empty": ({"VOILUTSequence": [], **WINDOW}, WINDOWED),
    "voi item empty": ({"VOILUTSequence": [Dataset()], **WINDOW}, WINDOWED),
    "voi descriptor empty": ({"VOILUTSequence": [lut(IDENTITY, 12, LUTDescriptor=None)], **WINDOW}, WINDOWED),
    "voi data empty": ({"VOILUTSequence": [lut(IDENTITY, 12, LUTData=None)], **WINDOW}, WINDOWED),
    "modality table": ({"ModalityLUTSequence": [lut(4095 - IDENTITY, 12)]}, 255 - PLAIN),
    "modality table with 12 of 16 bits": ({"ModalityLUTSequence": [lut(4095 - IDENTITY, 16)]}, 255 - PLAIN),
    "modality sequence empty": ({"ModalityLUTSequence": []}, PLAIN),
    "padding": ({"PixelPaddingValue": 4095}, np.where(VALUES == 4095, 0, PLAIN)),
    "padding, monochrome1": (
        {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"},
        np.where(VALUES == 0, 0, 255 - PLAIN),
    ),
    "padding range": ({"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3000}, np.where(VALUES >= 3000, 0, PLAIN)),
    "padding with a window": ({"PixelPaddingValue": 4095, **WINDOW}, np.where(VALUES == 4095, 0, WINDOWED)),
    "padding empty": ({"PixelPaddingValue": ""}, PLAIN),
}


@pytest.mark.parametrize("kind", TABLE)
def test_grey_levels(kind: str) -> None:
    elements, expected = TABLE[kind]
    assert np.abs(read(**elements) - expected).max() <= 0.51


@pytest.mark.parametrize("top", [250, 260, 1020, 1030])
def test_grey_does_not_depend_on_the_brightest_pixel(top: int) -> None:
    assert read(np.array([[200, top]], np.uint16))[0, 0] == round(200 / 4095 * 255)


def test_signed_values() -> None:
    assert np.abs(read(SIGNED) - PLAIN).max() <= 0.51  # 12 bits: -2048 to 2047
    padded = np.where(VALUES == 0, -2000, VALUES).astype(np.int16)
    plain = (np.maximum(padded, 1) - 1) / 4094 * 255
    wide = {"BitsStored": 16, "HighBit": 15}  # declares no range
    assert np.abs(read(padded, PixelPaddingValue=-2000, **wide) - plain).max() <= 0.51


def test_colour_is_scaled_by_its_bits() -> None:
    colour = np.repeat(VALUES[..., None], 3, 2)
    assert np.abs(read(colour) - PLAIN).max() <= 0.51


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": "0.5", "RescaleIntercept": "3.25"}])
@pytest.mark.parametrize(("center", "width"), [("2000", "1500"), ("500.5", "300.25"), ("1000", "1")])
def test_windows_equal_those_of_pydicom(function: str, rescale: dict[str, str], center: str, width: str) -> None:
    elements: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function, **rescale}
    dataset = dcmread(BytesIO(dicom_bytes(VALUES, BitsStored=12, HighBit=11, **elements)))
    shown = apply_voi_lut(apply_modality_lut(pixel_array(dataset), dataset), dataset)
    slope, intercept = float(rescale.get("RescaleSlope", 1)), float(rescale.get("RescaleIntercept", 0))
    assert np.abs(read(**elements) - (shown - intercept) / (4095 * slope) * 255).max() <= 0.51
