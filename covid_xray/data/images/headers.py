"""Headers of PNG and JPEG files, parsed before any pixel is decoded.

OpenCV decodes ordinary files fast. But it does not report the number of frames, it ignores transparency, and before
version 5 it fills the missing part of a truncated JPEG with grey. Parsing takes a hundredth of the decoding time and
finds the files that need another decoder or an error.
"""

import re
import struct
from typing import NamedTuple

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
# Start-of-frame markers: all of C0 to CF except DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_START_OF_FRAME_LS = 0xF7  # of JPEG-LS
_JPEG_2000 = b"\xff\x4f\xff\x51"
_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7]")  # within a scan, FF is followed by 0 or by a restart marker
MAX_SCANS, MAX_CHUNKS = 64, 1 << 20  # encoders write 10 scans at most; each takes time for all pixels


class Header(NamedTuple):
    """Size and type of an image, as its file declares them.

    Attributes:
        width: Columns.
        height: Rows.
        bits: Bits per sample in the file.
        ordinary: Whether OpenCV reads it correctly: grey, palette or RGB, and opaque.
        frames: Number of frames.
        fault: Why the file cannot be read; empty if no fault is found.
        transparent: Grey value of transparent pixels in a PNG file of 16-bit grey; -1 if there is none.
        end: Position of the end marker of a JPEG file.
    """

    width: int
    height: int
    bits: int
    ordinary: bool
    frames: int = 1
    fault: str = ""
    transparent: int = -1
    end: int = 0


def png_header(data: bytes) -> Header:
    """Parse the chunks of a PNG file, which starts with `PNG_MAGIC`."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        return Header(0, 0, 0, False, fault="its header is truncated or damaged")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    ordinary, frames, transparent, position = colour in (0, 2, 3), 1, -1, 8
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"IEND":
            return Header(width, height, bits, ordinary, frames, transparent=transparent)
        if name == b"acTL" and position + 12 <= len(data):
            frames = struct.unpack_from(">I", data, position + 8)[0]
        elif name == b"tRNS":
            ordinary = False
            if colour == 0 and bits == 16 and length == 2:
                transparent = int.from_bytes(data[position + 8 : position + 10], "big")
        position += length + 12
    return Header(width, height, bits, ordinary, frames, fault="it is truncated")


def jpeg_header(data: bytes) -> Header:
    """Parse the segments of a JPEG file, which starts with `JPEG_MAGIC`, and the headers of all scans."""
    position, header, end = 2, Header(0, 0, 0, False, fault="it is truncated"), len(data)
    if data.count(b"\xff\xda") > MAX_SCANS:
        return header._replace(fault=f"it has more than {MAX_SCANS} scans")
    progressive, missing = False, set(range(64))
    while position + 4 <= end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if marker == _END_OF_IMAGE:
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _START_OF_FRAME and position + 10 <= end:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            fault = "" if bits == 8 else f"it is a {bits}-bit JPEG; only 8-bit JPEG is supported"
            header, progressive = Header(width, height, bits, channels in (1, 3), fault=fault), marker in _PROGRESSIVE
        elif marker == _START_OF_SCAN:
            if not progressive or header.fault:
                # Within a scan, FF is followed by 0 or a restart marker only, so FF D9 is the end of the image.
                position = max(data.find(b"\xff\xd9", position), 0)
                missing.clear()
                break
            first, last, precision = data[position + length - 1 : position + length + 2] or (0, -1, 1)
            if precision & 15 == 0:
                missing -= set(range(first, last + 1))
            position = _next_marker(data, position + length + 2)
            continue
        position += length + 2
    whole = data[position : position + 2] == b"\xff\xd9" and not missing
    return header._replace(end=position, fault=header.fault or ("" if whole else "it is truncated"))


def stream_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 stream declares; 0 and 0 if it is none of them."""
    if data.startswith(_JPEG_2000) and len(data) >= 24:
        right, bottom, left, top = struct.unpack_from(">4I", data, 8)
        return right - left, bottom - top
    position = 2 if data.startswith(JPEG_MAGIC) else len(data)
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _START_OF_FRAME or marker == _START_OF_FRAME_LS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else length + 2
    return 0, 0


def run_length(data: bytes, limit: int) -> int:
    """Number of bytes that a segment of run-length encoding (PackBits) expands to; counting ends above the limit."""
    position = size = 0
    while position < len(data) and size <= limit:
        code = data[position]
        if code < 128:
            position, size = position + code + 2, size + code + 1
        else:
            position, size = (position + 2, size + 257 - code) if code > 128 else (position + 1, size)
    return size


def _next_marker(data: bytes, position: int) -> int:
    """Return the position of the first marker after a scan; the length of the data if there is none."""
    found = _MARKER.search(data, position)
    return found.start() if found else len(data)
