"""Headers of PNG and JPEG files, parsed before any pixel is decoded.

OpenCV decodes ordinary files fast. But it does not report the number of frames, it ignores transparency, and before
version 5 it fills the missing part of a truncated JPEG with grey. Parsing takes a hundredth of the decoding time and
finds the files that need another decoder or an error.
"""

import struct
from typing import NamedTuple

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
# Start-of-frame markers: all of C0 to CF except DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _ADOBE = 0xDA, 0xEE


class Header(NamedTuple):
    """Size and type of an image, as its file declares them.

    Attributes:
        width: Columns.
        height: Rows.
        bits: Bits per sample.
        ordinary: Whether OpenCV reads it correctly: grey, palette or RGB, and opaque.
        frames: Number of frames.
        fault: Why the file cannot be read; empty if no fault is found.
    """

    width: int
    height: int
    bits: int
    ordinary: bool
    frames: int = 1
    fault: str = ""


def png_header(data: bytes) -> Header:
    """Parse the chunks of a PNG file, which starts with `PNG_MAGIC`."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        return Header(0, 0, 0, False, fault="its header is truncated or damaged")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    ordinary, frames, position = colour in (0, 2, 3), 1, 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"IEND":
            return Header(width, height, bits, ordinary, frames)
        if name == b"acTL" and position + 12 <= len(data):
            frames = struct.unpack_from(">I", data, position + 8)[0]
        elif name == b"tRNS":
            ordinary = False
        position += length + 12
    return Header(width, height, bits, ordinary, frames, fault="it is truncated")


def jpeg_header(data: bytes) -> Header:
    """Parse the segments of a JPEG file, which starts with `JPEG_MAGIC`, up to the first scan."""
    position, header, end = 2, Header(0, 0, 0, False, fault="it is truncated"), len(data)
    while position + 4 <= end and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _START_OF_FRAME and position + 10 <= end:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            fault = "" if bits == 8 else f"it is a {bits}-bit JPEG; only 8-bit JPEG is supported"
            header = Header(width, height, bits, channels in (1, 3), fault=fault)
        elif marker == _START_OF_SCAN:
            # Within a scan, FF is followed by 0 or a restart marker only, so FF D9 is the end of the image.
            whole = data.rfind(b"\xff\xd9", position) >= 0
            return header if whole or header.fault else header._replace(fault="it is truncated")
        position += length + 2
    return header._replace(fault="it is truncated")
