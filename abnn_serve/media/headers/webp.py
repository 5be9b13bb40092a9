"""The header of a WebP file."""

from __future__ import annotations

from abnn_serve.media.headers.header import FOURTH_CHANNEL, Header

_ANIMATED, _ALPHA = 0x02, 0x10
_ANIMATION_COST = 4  # canvases of an animation that its decoder holds, relative to a still image


def is_webp(data: bytes) -> bool:
    """Whether the data begin as a WebP file."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def read_webp(data: bytes) -> Header:
    """Read the header of WebP data. The canvas of an animation counts as four images, transparency as two."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return Header(format="WEBP")
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        cost = _ANIMATION_COST if body[0] & _ANIMATED else FOURTH_CHANNEL if body[0] & _ALPHA else 1
        return Header(format="WEBP", width=width, height=height, pixels=width * height * cost)
    cost = 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        cost = FOURTH_CHANNEL if bits >> 28 & 1 else 1
    else:
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    # not VP8L: it may declare a table of Huffman codes, ten kilobytes in memory, for every 16 pixels
    is_plain = kind == b"VP8 " and int.from_bytes(data[16:20], "little") + 20 <= len(data)
    return Header(format="WEBP", width=width, height=height, pixels=width * height * cost, is_plain=is_plain)
