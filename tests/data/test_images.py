"""A corpus of ordinary, unusual and damaged image files: each is read correctly or refused with a reason."""

import contextlib
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dicom_files import SECRET, dicom_bytes
from PIL import Image, PngImagePlugin

from covid_xray.data.images.grey import MAX_PIXELS, ImageError, scale_to_8_bits
from covid_xray.data.images.read import EXTENSIONS, read_image
from covid_xray.data.images.resize import shrink
from covid_xray.errors import UserError

REAL = Path(__file__).parents[3] / "shared/data/chest-xrays"
HEIGHT, WIDTH = 60, 90
RNG = np.random.default_rng(0)
# A gradient from 0 to 255 with marked corners, which reveals rotation, inversion and scaling.
GREY = np.rint(np.add.outer(np.linspace(0, 155, HEIGHT), np.linspace(0, 100, WIDTH))).astype(np.uint8)
GREY[:8, :8], GREY[-8:, :8] = 255, 0
PICTURE = Image.fromarray(GREY)
RAMP16 = GREY.astype(np.uint16) * 257
RAMP12 = np.rint(GREY * (4095 / 255)).astype(np.uint16)


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rotated(kind: str) -> bytes:
    """The picture rotated by 90 degrees, with the EXIF tag that rotates it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = PICTURE.transpose(Image.Transpose.ROTATE_90)
    settings = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(turned, kind, exif=exif, **settings)


def rgba(alpha: int) -> Image.Image:
    image = PICTURE.convert("RGBA")
    image.putalpha(alpha)
    return image


def float_tiff(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels.astype(np.float32)), "TIFF")


def white_is_zero(pixels: np.ndarray) -> bytes:
    """A TIFF file with the tag that 0 is white; Pillow inverts 8-bit pixels when it writes them, and only those."""
    return encoded(Image.fromarray(pixels), "TIFF", tiffinfo={262: 0})


def palette() -> Image.Image:
    """A palette in reverse order, so that reading indices as grey levels gives the negative."""
    image = Image.fromarray(255 - GREY).copy()
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for level in range(255, -1, -1) for value in (level, level, level)])
    return image


def two_pages(kind: str) -> bytes:
    return encoded(PICTURE, kind, save_all=True, append_images=[PICTURE.rotate(5)])


def deep_alpha(colour: int, alpha: int) -> bytes:
    """A 16-bit PNG of grey and alpha (colour 4) or RGBA (colour 6)."""
    channels = [RAMP16] * (colour - 3 if colour == 4 else 3) + [np.full_like(RAMP16, alpha)]
    rows = np.stack(channels, 2).astype(">u2")
    return png(WIDTH, HEIGHT, 16, colour, b"".join(b"\0" + row.tobytes() for row in rows))


ONE_BRIGHT = np.full((HEIGHT, WIDTH), 1000, np.uint16)
ONE_BRIGHT[0, 0] = 1024
JPEG, PNG = encoded(PICTURE, "JPEG", quality=95), encoded(PICTURE, "PNG")
LUT = [int(value) for value in range(255, -1, -1)]

# File name, content, expected image.
READABLE: dict[str, tuple[str, bytes, np.ndarray]] = {
    "png": ("a.png", PNG, GREY),
    "jpeg": ("a.jpg", JPEG, GREY),
    "progressive jpeg": ("a.jpg", encoded(PICTURE, "JPEG", quality=95, progressive=True), GREY),
    "rgb jpeg": ("a.jpg", encoded(PICTURE.convert("RGB"), "JPEG", quality=95), GREY),
    "cmyk jpeg": ("a.jpg", encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), GREY),
    "bytes after the end of a jpeg": ("a.jpg", JPEG + b"\0" * 900, GREY),
    "bytes after the end of a png": ("a.png", PNG + b"trailing", GREY),
    "upper-case extension": ("A.PNG", PNG, GREY),
    "jpeg called png": ("a.png", JPEG, GREY),
    "png called jpg": ("a.jpg", PNG, GREY),
    "png called dcm": ("a.dcm", PNG, GREY),
    "tiff without extension": ("noextension", encoded(PICTURE, "TIFF"), GREY),
    "exif-rotated jpeg": ("a.jpg", rotated("JPEG"), GREY),
    "exif-rotated png": ("a.png", rotated("PNG"), GREY),
    "exif-rotated tiff": ("a.tif", rotated("TIFF"), GREY),
    "exif-rotated webp": ("a.webp", rotated("WEBP"), GREY),
    "rgb png": ("a.png", encoded(PICTURE.convert("RGB"), "PNG"), GREY),
    "palette png": ("a.png", encoded(palette(), "PNG"), GREY),
    "palette gif": ("a.gif", encoded(palette(), "GIF"), GREY),
    "opaque rgba png": ("a.png", encoded(rgba(255), "PNG"), GREY),
    "transparent rgba png": ("a.png", encoded(rgba(0), "PNG"), np.zeros_like(GREY)),
    "half-transparent rgba webp": ("a.webp", encoded(rgba(128), "WEBP", lossless=True), np.rint(GREY * 0.502)),
    "grey and alpha png": ("a.png", encoded(PICTURE.convert("LA"), "PNG"), GREY),
    "png with a transparent grey": ("a.png", encoded(PICTURE, "PNG", transparency=255), np.where(GREY == 255, 0, GREY)),
    "1-bit png": ("a.png", encoded(PICTURE.point(lambda v: 255 * (v > 99), "1"), "PNG"), np.where(GREY > 99, 255, 0)),
    "16-bit png, full range": ("a.png", encoded(Image.fromarray(RAMP16), "PNG"), GREY),
    "16-bit png, 12 bits used": ("a.png", encoded(Image.fromarray(RAMP12), "PNG"), np.rint(RAMP12 / 257)),
    "16-bit png, one bright pixel": ("a.png", encoded(Image.fromarray(ONE_BRIGHT), "PNG"), np.rint(ONE_BRIGHT / 257)),
    "16-bit grey and alpha png": ("a.png", deep_alpha(4, 65535), GREY),
    "16-bit rgba png, half transparent": ("a.png", deep_alpha(6, 32896), np.rint(GREY * 0.502)),
    "16-bit png with a transparent grey": (
        "a.png",
        png(2, 1, 16, 0, b"\0\xff\xff\x80\x80", chunk(b"tRNS", b"\xff\xff")),
        np.array([[0, 128]]),
    ),
    "16-bit rgb png": ("a.png", cv2.imencode(".png", np.repeat(RAMP16[..., None], 3, 2))[1].tobytes(), GREY),
    "16-bit tiff": ("a.tif", encoded(Image.fromarray(RAMP16), "TIFF"), GREY),
    "16-bit tiff, white is zero": ("a.tif", white_is_zero(65535 - RAMP16), GREY),
    "8-bit tiff, white is zero": ("a.tif", white_is_zero(GREY), GREY),
    "float tiff from 0 to 1": ("a.tif", float_tiff(GREY / 255), GREY),
    "float tiff from 0 to 255": ("a.tif", float_tiff(GREY), GREY),
    "float tiff in other units": ("a.tif", float_tiff(GREY * 8.0 - 1024), GREY),
    "32-bit whole tiff": ("a.tif", encoded(Image.fromarray(GREY.astype(np.int32) * 1000 - 9), "TIFF"), GREY),
    "compressed tiff": ("a.tif", encoded(PICTURE, "TIFF", compression="tiff_lzw"), GREY),
    "bmp": ("a.bmp", encoded(PICTURE, "BMP"), GREY),
    "webp": ("a.webp", encoded(PICTURE.convert("RGB"), "WEBP", lossless=True), GREY),
    "one pixel": ("a.png", png(1, 1, 8, 0, b"\0\x42"), np.array([[0x42]])),
    "dicom, 8 bits": ("a.dcm", dicom_bytes(GREY), GREY),
    "dicom, 12 of 16 bits": ("a.dcm", dicom_bytes(RAMP12, BitsStored=12, HighBit=11), GREY),
    "dicom, monochrome1": ("a.dcm", dicom_bytes(255 - GREY, PhotometricInterpretation="MONOCHROME1"), GREY),
    "dicom, rescaled, signed": (
        "a.dcm",
        dicom_bytes(GREY.astype(np.int16) - 128, RescaleSlope="1", RescaleIntercept="128"),
        GREY,
    ),
    "dicom, window": (
        "a.dcm",
        dicom_bytes(GREY.astype(np.uint16) + 1000, WindowCenter="1128", WindowWidth="256"),
        GREY,
    ),
    "dicom, first of two windows": (
        "a.dcm",
        dicom_bytes(GREY.astype(np.uint16) + 1000, WindowCenter=["1128", "50"], WindowWidth=["256", "10"]),
        GREY,
    ),
    "dicom, monochrome1 with window after rescale": (
        "a.dcm",
        dicom_bytes(
            255 - GREY.astype(np.uint16),
            **{"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "4", "RescaleIntercept": "-100"},
            **{"WindowCenter": "410", "WindowWidth": "1020", "VOILUTFunction": "LINEAR_EXACT"},
        ),
        GREY,
    ),
    "dicom, rgb": ("a.dcm", dicom_bytes(np.repeat(GREY[..., None], 3, 2)), GREY),
    "dicom, rle": ("a.dcm", b"", GREY),
    "dicom, jpeg": (
        "a.dcm",
        dicom_bytes(GREY, "1.2.840.10008.1.2.4.50", payload=encoded(PICTURE, "JPEG", quality=95)),
        GREY,
    ),
    "dicom without preamble": ("a.dcm", dicom_bytes(GREY)[132:], GREY),
    "dicom without extension": ("IM000001", dicom_bytes(GREY), GREY),
}

MIDDLE_OF_PNG = PNG[:120] + bytes(8) + PNG[128:]
BOMB = png(200_000, 200_000, 8, 0, b"")
JPEG_IN_DICOM, JPEG_LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80"
JPEG_LS_START = b"\xff\xd8\xff\xf7\0\x0b\x08" + struct.pack(">HH", HEIGHT, WIDTH) + b"\1\1\x11\0"
HUGE_JPEG = JPEG.replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 65000, 65000))
JPEG_12_BIT = JPEG.replace(b"\x08" + struct.pack(">HH", HEIGHT, WIDTH), b"\x0c" + struct.pack(">HH", HEIGHT, WIDTH))
TIFF = encoded(PICTURE, "TIFF")
NAN = np.where(GREY == 255, np.nan, GREY / 255)

EOI = b"\xff\xd9"
PROGRESSIVE = encoded(PICTURE, "JPEG", quality=95, progressive=True)
NOISE_JPEG = encoded(Image.fromarray(RNG.integers(0, 256, (200, 200), np.uint8)), "JPEG", quality=80)

# File name, content, words of the reason.
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.png", b"", "empty"),
    "empty dicom": ("a.dcm", b"", "empty"),
    "text as png": ("a.png", b"patient,label\n1,normal\n", "no image"),
    "web page as jpeg": ("a.jpg", b"<!DOCTYPE html><html>404 not found</html>", "no image"),
    "git-lfs pointer": ("a.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "no image"),
    "random bytes": ("a.jpg", RNG.bytes(5000), "no image"),
    "zeros": ("a.png", bytes(5000), "no image"),
    "zip": ("a.png", b"PK\x03\x04" + RNG.bytes(200), "no image"),
    "png magic only": ("a.png", PNG[:8], "header"),
    "png cut in its header": ("a.png", PNG[:20], "header"),
    "png cut in the middle": ("a.png", PNG[: len(PNG) // 2], "truncated"),
    "png without its end": ("a.png", PNG[:-12], "truncated"),
    "png with a damaged chunk": ("a.png", MIDDLE_OF_PNG, "damaged"),
    "png with a wrong checksum": ("a.png", PNG[:-13] + bytes([PNG[-13] ^ 1]) + PNG[-12:], "damaged"),
    "png with a damaged header": ("a.png", PNG[:16] + b"\0\0\0\x10" + PNG[20:], "damaged"),
    "png with too few rows": ("a.png", png(10, 10, 8, 0, bytes(33)), "damaged"),
    "png without pixels": ("a.png", PNG[:33] + chunk(b"IEND", b""), "damaged"),
    "png of no width": ("a.png", png(0, 10, 8, 0, b""), "0 x 10 pixels"),
    "png bomb": ("a.png", BOMB, "limit is 80 million"),
    "rgba png bomb": ("a.png", png(200_000, 200_000, 8, 6, b""), "limit is 80 million"),
    "jpeg bomb": ("a.jpg", HUGE_JPEG, "limit is 80 million"),
    "tiff bomb": ("a.tif", TIFF.replace(struct.pack("<L", WIDTH), struct.pack("<L", 10_000_000)), "million"),
    "animated png": ("a.png", two_pages("PNG"), "2 frames"),
    "animated gif": ("a.gif", two_pages("GIF"), "2 frames"),
    "animated webp": ("a.webp", two_pages("WEBP"), "2 frames"),
    "tiff of two pages": ("a.tif", two_pages("TIFF"), "2 frames"),
    "jpeg magic only": ("a.jpg", JPEG[:3], "truncated"),
    "jpeg cut in its tables": ("a.jpg", JPEG[:150], "truncated"),
    "jpeg cut after a tenth": ("a.jpg", JPEG[: len(JPEG) * 6 // 10], "truncated"),
    "jpeg cut near the end": ("a.jpg", JPEG[:-30], "truncated"),
    "jpeg without its end mark": ("a.jpg", JPEG[:-2], "truncated"),
    "half of a jpeg with an end mark": ("a.jpg", JPEG[: len(JPEG) // 2 + 350] + EOI, "truncated"),
    "half of a progressive jpeg with an end mark": (
        "a.jpg",
        PROGRESSIVE[: len(PROGRESSIVE) * 2 // 3] + EOI,
        "truncated",
    ),
    "jpeg with zeros as its second half": (
        "a.jpg",
        NOISE_JPEG[:9000] + bytes(len(NOISE_JPEG) - 9000) + EOI,
        "truncated",
    ),
    "12-bit jpeg": ("a.jpg", JPEG_12_BIT, "12-bit"),
    "bmp cut": ("a.bmp", encoded(PICTURE, "BMP")[:2000], "damaged"),
    "tiff cut": ("a.tif", TIFF[:3000], ""),
    "webp cut": ("a.webp", encoded(PICTURE, "WEBP")[:100], ""),
    "gif cut": ("a.gif", encoded(PICTURE, "GIF")[:1000], "damaged"),
    "float tiff with nan": ("a.tif", float_tiff(NAN), "NaN"),
    "dicom without pixels": ("a.dcm", dicom_bytes(None), "without pixels"),
    "dicom of four frames": ("a.dcm", dicom_bytes(np.stack([GREY] * 4), NumberOfFrames=4), "4 frames"),
    "dicom, jpeg-ls, no decoder": ("a.dcm", dicom_bytes(GREY, JPEG_LS, payload=JPEG_LS_START), "JPEG-LS"),
    "dicom, film": ("a.dcm", dicom_bytes(GREY, "1.2.840.10008.1.2.4.100", payload=b"xx"), "no JPEG"),
    "dicom with damaged jpeg": ("a.dcm", dicom_bytes(GREY, JPEG_IN_DICOM, payload=JPEG[:180]), "decoded"),
    "dicom with too few pixels": ("a.dcm", dicom_bytes(GREY, Rows=600), "decoded"),
    "dicom bomb": ("a.dcm", dicom_bytes(GREY, Rows=60000, Columns=60000), "limit is 80 million"),
    "dicom without size": ("a.dcm", dicom_bytes(GREY, Rows=None), "0 pixels"),
    "dicom cut": ("a.dcm", dicom_bytes(GREY)[:700], ""),
    "dicom, palette colour": ("a.dcm", dicom_bytes(GREY, PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
    "dicom, deflated": ("a.dcm", dicom_bytes(GREY, "1.2.840.10008.1.2.1.99"), "deflated"),
    "text as dicom": ("a.dcm", b"patient,label\n1,normal\n" * 20, ""),
}


def rle_dicom() -> bytes:
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    dataset = dcmread(BytesIO(dicom_bytes(GREY)))
    dataset.compress(RLELossless)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", READABLE)
def test_image_is_read_correctly(kind: str, tmp_path: Path) -> None:
    name, content, expected = READABLE[kind]
    file = tmp_path / name
    file.write_bytes(rle_dicom() if kind == "dicom, rle" else content)
    image = read_image(file)
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    # JPEG is lossy, and luma of CMYK and 16 bits is off by one; a wrong rotation, inversion or scale is off by tens.
    lossy = "jpeg" in kind
    assert np.abs(image.astype(int) - expected).max() <= (40 if lossy else 2)
    assert np.abs(image.astype(int) - expected).mean() <= (1.5 if lossy else 1)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_reason(kind: str, tmp_path: Path) -> None:
    name, content, word = REFUSED[kind]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ImageError) as error:
        read_image(file)
    assert str(file) in str(error.value)
    assert word in error.value.reason
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_corpus_is_large() -> None:
    assert len(REFUSED) >= 40


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    for content in (JPEG, PNG, encoded(PICTURE, "JPEG", progressive=True)):
        for end in range(1, len(content), 97):
            file = tmp_path / "cut"
            file.write_bytes(content[:end])
            with pytest.raises(ImageError):
                read_image(file)


def test_flipped_bytes_end_in_an_image_or_a_reason(tmp_path: Path) -> None:
    originals = [JPEG, PNG, TIFF, encoded(PICTURE, "WEBP"), dicom_bytes(GREY), encoded(rgba(9), "PNG")]
    for content in originals:
        for seed in range(40):
            rng = np.random.default_rng(seed)
            damaged = bytearray(content)
            for position in rng.integers(0, min(len(content), 600), 3):
                damaged[position] = rng.integers(256)
            file = tmp_path / "flipped.dcm"
            file.write_bytes(bytes(damaged))
            with contextlib.suppress(ImageError):
                assert read_image(file).dtype == np.uint8


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to(path.parent / "gone.png"), "No such file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
    ],
    ids=["missing", "folder", "symlink loop", "dangling symlink", "pipe"],
)
def test_no_regular_file(make: Callable[[Path], None], word: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(ImageError, match=word):
        read_image(path)


@pytest.mark.parametrize("path", ["a\0b.png", "x" * 5000 + ".png", "\ud800.png"])
def test_invalid_names(path: str) -> None:
    with pytest.raises(ImageError):
        read_image(path)


def test_unreadable_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    file.chmod(0)
    if os.geteuid() == 0:  # root may read all files, so another user tries it in a new process
        tmp_path.chmod(0o755)
        for folder in tmp_path.parents[:2]:
            folder.chmod(0o755)
        code = f"import os; os.seteuid(65534); open({str(file)!r}, 'rb')"
        denied = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "Permission denied" in denied.stderr

        def refuse(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(file)


@pytest.mark.parametrize(
    "name", ["with space.png", "ünï çødé 肺.png", "new\nline.png", "comma,quote'\".png", "a%20b.png"]
)
def test_unusual_names_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(PNG)
    assert np.array_equal(read_image(tmp_path / name), GREY)


def test_message_about_a_name_with_a_newline_has_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / "new\nline.png")
    assert "\n" not in str(error.value)


def test_decompression_bombs_use_no_memory(tmp_path: Path) -> None:
    """200,000 x 200,000 zeros compress to 40 MB. The check needs only the header."""
    for number, bomb in enumerate((BOMB, HUGE_JPEG, png(200_000, 200_000, 8, 6, b""))):
        (tmp_path / f"{number}.png").write_bytes(bomb)
    code = (
        "import resource, sys; from covid_xray.data.images.read import read_image; import PIL.Image\n"
        "from covid_xray.data.images.grey import ImageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_image(path)\n"
        "    except ImageError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    files = sorted(map(str, tmp_path.glob("*.png")))
    answer = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 30_000  # KiB


def test_largest_size_is_read(tmp_path: Path) -> None:
    side = 5000
    assert side * side < MAX_PIXELS
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((side, side), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert read_image(tmp_path / "a.png").shape == (side, side)


def test_png_text_chunks_are_skipped(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("acTL", "IEND tRNS")
    (tmp_path / "a.png").write_bytes(encoded(PICTURE, "PNG", pnginfo=info))
    assert np.array_equal(read_image(tmp_path / "a.png"), GREY)


def test_dicom_lookup_table(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], (np.array(LUT) * 257).astype("<u2").tobytes()
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(255 - GREY, VOILUTSequence=[table], WindowCenter="9", WindowWidth="5"))
    assert np.abs(read_image(tmp_path / "a.dcm").astype(int) - GREY).max() <= 1


def test_dicom_sigmoid() -> None:
    from covid_xray.data.images.dicom import apply_window

    shown = apply_window(np.array([100, 200, 300, -(10**6), 10**6]), 200, 100, "SIGMOID")
    assert shown.tolist() == [5, 128, 250, 0, 255]


def test_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(GREY))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match="pip install"):
        read_image(tmp_path / "a.dcm")


def test_scaling_keeps_order_and_range() -> None:
    for bits in (8, 10, 12, 14, 16):
        scaled = scale_to_8_bits(np.arange(1 << bits, dtype=np.uint16), bits)
        assert (scaled[0], scaled[-1]) == (0, 255)
        assert (np.diff(scaled.astype(int)) >= 0).all()
    assert scale_to_8_bits(np.full((2, 2), -7)).tolist() == [[0, 0], [0, 0]]


def test_complete_jpegs_of_flat_regions_are_read(tmp_path: Path) -> None:
    """Middle grey and black look like missing data: the test for missing bytes must accept them."""
    for grey in (0, 128, 255):
        for settings in ({}, {"optimize": True}, {"progressive": True}, {"restart_marker_blocks": 7}):
            picture = np.full((900, 900), grey, np.uint8)
            picture[:60, :90] = GREY
            (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(picture), "JPEG", **settings))
            assert (read_image(tmp_path / "a.jpg")[100:] == grey).all()


def test_error_survives_a_process_boundary() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a.png", "it is empty")))
    assert (error.path, error.reason, str(error)) == ("a.png", "it is empty", str(ImageError("a.png", "it is empty")))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real X-rays in {REAL}")
def test_real_images_equal_plain_opencv() -> None:
    for file in sorted(REAL.rglob("*.jpg"))[::25]:
        assert file.suffix in EXTENSIONS
        expected = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert expected is not None
        assert np.array_equal(read_image(file), expected)


def test_shrink_keeps_the_aspect_ratio_and_never_enlarges() -> None:
    image = np.zeros((40, 80), np.uint8)
    image[:, 40:] = 200
    small = shrink(image, 20)
    assert small.shape == (10, 20)
    assert [small[:, :10].max(), small[:, 10:].min()] == [0, 200]
    assert shrink(np.zeros((1, 5000, 3), np.uint8), 10).shape == (1, 10, 3)
    assert shrink(image, 80) is image
