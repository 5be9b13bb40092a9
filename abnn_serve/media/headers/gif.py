"""The header of a GIF file: everything before the pixels of its first frame."""

from __future__ import annotations

import struct

from abnn_serve.media.headers.header import Header, check_count

_MAX_BLOCKS = 10_000  # Pillow reads the blocks of extensions, and bytes between them, one at a time
_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B


def is_gif(data: bytes) -> bool:
    """Whether the data begin as a GIF file."""
    return data.startswith((b"GIF87a", b"GIF89a"))


def read_gif(data: bytes) -> Header:
    """Read the header of GIF data; its size is that of the screen, enlarged to hold the first frame.

    Raises:
        InputTooLargeError: too many blocks before the first frame.
    """
    if len(data) < 13:
        return Header(format="GIF")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, blocks = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), 0
    while at < len(data) and data[at] != _END:
        if data[at] == _IMAGE and at + 9 <= len(data):
            left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            break
        at, blocks = at + 1, blocks + 1
        if data[at - 1] == _EXTENSION:
            at += 1
            while at < len(data) and data[at] and blocks <= _MAX_BLOCKS:
                at, blocks = at + 1 + data[at], blocks + 1
            at += 1
        check_count(blocks, _MAX_BLOCKS, "GIF blocks before its first frame")
    return Header(format="GIF", width=width, height=height, pixels=width * height)
