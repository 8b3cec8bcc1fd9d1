"""Files made to run a program, to block or to take memory and time: each is refused at once."""

import os
import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom_bytes
from PIL import Image

from covid_xray.data.audit.fingerprints import fingerprint_files
from covid_xray.data.images.dicom import read_view
from covid_xray.data.images.grey import ImageError
from covid_xray.data.images.read import read_image
from covid_xray.runs.images import content_hashes

RLE, JPEG_IN_DICOM, JPEG_2000_IN_DICOM = (f"1.2.840.10008.1.2.{end}" for end in ("5", "4.50", "4.90"))
DEFLATED, FRAMES = "1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.8.1\0"
SMALL = np.arange(256, dtype=np.uint8).reshape(16, 16)


def tiff_pages(count: int, circle: bool = False) -> bytes:
    """A TIFF file of pages of one pixel; the last page may lead back to the first."""
    tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1))
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    step = len(page) + 4
    ends = [8 + step * (number + 1) for number in range(count - 1)] + [8 if circle else 0]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", end) for end in ends)


def gif_frames(count: int) -> bytes:
    frame = b"\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff" + frame * count + b";"


def chunks(count: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(SMALL).save(buffer, "PNG")
    empty = b"\0\0\0\0teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    return buffer.getvalue()[:33] + empty * count + buffer.getvalue()[33:]


def scans(count: int) -> bytes:
    """A progressive JPEG file whose last scan, with its tables, is repeated."""
    buffer = BytesIO()
    Image.fromarray(np.tile(SMALL, (16, 16))).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    return data[:-2] + data[data.rfind(b"\xff\xc4") : -2] * count + b"\xff\xd9"


def late(syntax: str) -> bytes:
    """A DICOM file whose transfer syntax stands behind 3,000 other bytes."""
    data = dicom_bytes(SMALL, syntax)
    position = data.index(b"\x02\x00\x10\x00UI")
    padding = b"\x02\x00\x03\x00UI" + struct.pack("<H", 3000) + b"1.2" + bytes(2997)
    old = data.index(b"\x02\x00\x03\x00UI")
    return data[:old] + padding + data[position:]


def compressed(syntax: str, payload: bytes, **elements: Any) -> bytes:
    """A DICOM file that declares the size of `SMALL` and holds other compressed pixels."""
    return dicom_bytes(SMALL, syntax, payload=payload, **elements)


def jpeg_of_size(side: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(SMALL).save(buffer, "JPEG")
    height, width = SMALL.shape
    return buffer.getvalue().replace(struct.pack(">HH", height, width), struct.pack(">HH", side, side), 1)


# A run-length segment of 4 MB that expands to 256 MB; a JPEG 2000 image of 60,000 x 60,000 pixels.
RUNS = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * (2 << 20)
HUGE_JPEG_2000 = b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, 60_000, 60_000, 0, 0) + bytes(60)


# File name, content, words of the reason.
HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "eps, which Pillow gives to Ghostscript": (
        "a.png",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "no image of a known format",
    ),
    "jpeg 2000": ("a.png", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "no image of a known format"),
    "deflated dicom": ("a.dcm", lambda: late(DEFLATED), "deflated"),
    "dicom of deflated frames": ("a.dcm", lambda: late(DEFLATED).replace(DEFLATED.encode(), FRAMES), "deflated"),
    "deflated dicom without preamble": ("a.dcm", lambda: dicom_bytes(SMALL, DEFLATED)[132:], "deflated"),
    "dicom of long runs": ("a.dcm", lambda: compressed(RLE, RUNS), "expand to more than"),
    "dicom of 15 long runs at one place": (
        "a.dcm",
        lambda: compressed(RLE, struct.pack("<16I", 15, *[64] * 15) + RUNS[64:]),
        "expand to more than",
    ),
    "dicom with a large jpeg": (
        "a.dcm",
        lambda: compressed(JPEG_IN_DICOM, jpeg_of_size(65_000)),
        "are 65000 x 65000, but it declares",
    ),
    "dicom with a large jpeg 2000": (
        "a.dcm",
        lambda: compressed(JPEG_2000_IN_DICOM, HUGE_JPEG_2000),
        "are 60000 x 60000, but it declares",
    ),
    "dicom with a tiff": (
        "a.dcm",
        lambda: compressed(JPEG_IN_DICOM, tiff_pages(1)),
        "are no JPEG or JPEG 2000 image, but it declares",
    ),
    "dicom of 1,000 jpeg scans": (
        "a.dcm",
        lambda: compressed(JPEG_IN_DICOM, scans(1000), Rows=16 * SMALL.shape[0], Columns=16 * SMALL.shape[1]),
        "more than 64 scans",
    ),
    "dicom of 65,535 samples": ("a.dcm", lambda: compressed(RLE, RUNS, SamplesPerPixel=65_535), "65535 samples"),
    "tiff of 100,000 pages": ("a.tif", lambda: tiff_pages(100_000), "2 frames"),
    "gif of a million frames": ("a.gif", lambda: gif_frames(1_000_000), "2 frames"),
    "progressive jpeg of 1,000 scans": ("a.jpg", lambda: scans(1000), "more than 64 scans"),
    "png of 2 million chunks": ("a.png", lambda: chunks(2_000_000), "truncated"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused_at_once(kind: str, tmp_path: Path) -> None:
    name, make, word = HOSTILE[kind]
    file = tmp_path / name
    file.write_bytes(make())
    start = time.process_time()  # independent of other processes
    with pytest.raises(ImageError) as error:
        read_image(file)
    assert word in error.value.reason
    assert time.process_time() - start < 5


def test_ordinary_relatives_are_read(tmp_path: Path) -> None:
    for name, content in {"a.gif": gif_frames(1), "a.tif": tiff_pages(1), "c.tif": tiff_pages(1, circle=True)}.items():
        (tmp_path / name).write_bytes(content)
        assert read_image(tmp_path / name).shape == (1, 1)
    (tmp_path / "a.png").write_bytes(chunks(1000))
    assert np.array_equal(read_image(tmp_path / "a.png"), SMALL)
    # Run lengths: rows of literals, then one byte of padding.
    rows = b"".join(b"\x0f" + row.tobytes() for row in SMALL) + b"\0\0"
    buffer = BytesIO()
    Image.fromarray(SMALL).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    for content in (
        late("1.2.840.10008.1.2.1"),
        compressed(RLE, struct.pack("<16I", 1, 64, *[0] * 14) + rows),
        compressed(JPEG_2000_IN_DICOM, buffer.getvalue()),
    ):
        (tmp_path / "a.dcm").write_bytes(content)
        assert np.array_equal(read_image(tmp_path / "a.dcm"), SMALL)


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    for number, target in enumerate(("/dev/zero", "/proc/self/mem", "/proc/kmsg", "/proc/self/environ", "4.png")):
        (tmp_path / f"{number}.png").symlink_to(target)
    files = sorted(map(str, tmp_path.iterdir()))
    assert len(files) == 7
    for file in files:
        with pytest.raises(ImageError, match=r"it is not a regular file|symbolic links|empty|No such file"):
            read_image(file)
        assert read_view(Path(file)) == ""
    assert content_hashes(files) == [""] * 7
    assert all(fingerprint_files(files).reason)
