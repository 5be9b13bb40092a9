"""The header of a BMP file."""

from __future__ import annotations

import struct

from abnn_serve.media.headers.header import Header

_HEADERS = (40, 52, 56, 108, 124)  # BITMAPINFOHEADER and its successors
_UNCOMPRESSED = 0
_PLAIN_BITS = (8, 24, 32)


def is_bmp(data: bytes) -> bool:
    """Whether the data begin as a BMP file."""
    return data.startswith(b"BM")


def read_bmp(data: bytes) -> Header:
    """Read the header of BMP data."""
    if len(data) < 54 or int.from_bytes(data[14:18], "little") not in _HEADERS:
        return Header(format="BMP")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    return Header(
        format="BMP",
        width=width,
        height=height,
        pixels=width * height,
        is_plain=compression == _UNCOMPRESSED and bits in _PLAIN_BITS and width * height * bits // 8 <= len(data),
    )
