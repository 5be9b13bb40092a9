"""The header of a PNG file, and the number of its chunks."""

from __future__ import annotations

import struct

from abnn_serve.media.headers.header import FOURTH_CHANNEL, Header, check_count

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 20_000  # Pillow takes about 8 us for each
_PLAIN_CHUNKS = 2000
_PLAIN_ANCILLARY_CHUNKS = 32
_PLAIN_ANCILLARY_BYTES = 256_000
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_WITH_ALPHA = (4, 6)  # colour types


def is_png(data: bytes) -> bool:
    """Whether the data begin as a PNG file."""
    return data.startswith(_SIGNATURE)


def read_png(data: bytes) -> Header:
    """Read the header of PNG data.

    Raises:
        InputTooLargeError: too many chunks.
    """
    chunks = ancillary = ancillary_bytes = 0
    at, is_animated = len(_SIGNATURE), False
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks += 1
        check_count(chunks, _MAX_CHUNKS, "PNG chunks")
        if kind not in (b"IHDR", b"IDAT", b"PLTE", b"IEND"):
            ancillary += 1
            ancillary_bytes += length
            is_animated = is_animated or kind in _ANIMATION
        at += 12 + length
    if len(data) < 29 or data[12:16] != b"IHDR":
        return Header(format="PNG")
    width, height, interlaced = *struct.unpack_from(">II", data, 16), data[28] != 0
    return Header(
        format="PNG",
        width=width,
        height=height,
        pixels=width * height * (FOURTH_CHANNEL if data[25] in _WITH_ALPHA else 1),
        is_plain=not is_animated
        and not interlaced
        and data[8:12] == b"\0\0\0\r"
        and chunks <= _PLAIN_CHUNKS
        and ancillary <= _PLAIN_ANCILLARY_CHUNKS
        and ancillary_bytes <= _PLAIN_ANCILLARY_BYTES,
    )
