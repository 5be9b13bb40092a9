"""The header of a TIFF file: its first directory, with the area of its tiles and strips."""

from __future__ import annotations

import struct

from abnn_serve.media.headers.header import FOURTH_CHANNEL, Header, check_count

_SIGNATURES = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_MAX_PIECES = 2**15  # Pillow takes about 14 us for each tile or strip
_MAX_TAGS = 4096
_WIDTH, _HEIGHT, _STRIPS, _SAMPLES, _ROWS_PER_STRIP, _PLANES = 256, 257, 273, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES = 322, 323, 324
_SEPARATE_PLANES = 2
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def is_tiff(data: bytes) -> bool:
    """Whether the data begin as a TIFF or BigTIFF file."""
    return data.startswith(_SIGNATURES)


def read_tiff(data: bytes) -> Header:
    """Read the header of TIFF data; `pixels` is the area of all tiles or strips, of each plane.

    Raises:
        InputTooLargeError: too many tags, tiles or strips, or more bytes of tags than the file has.
    """
    try:
        tags = _read_directory(data)
    except (struct.error, OverflowError):
        return Header(format="TIFF")
    values = {tag: value for tag, (_, value) in tags.items()}
    counts = {tag: count for tag, (count, _) in tags.items()}
    width, height = values.get(_WIDTH, 0), values.get(_HEIGHT, 0)
    pieces = max(counts.get(_STRIPS, 0), counts.get(_TILES, 0))
    check_count(pieces, _MAX_PIECES, "TIFF tiles or strips")
    samples = values.get(_SAMPLES, 1)
    planes = samples if values.get(_PLANES) == _SEPARATE_PLANES else 1
    cost = planes if planes > 1 else 1 if samples in (1, 3) else FOURTH_CHANNEL
    if _TILE_WIDTH in values or _TILE_HEIGHT in values:
        piece_width, piece_height = max(values.get(_TILE_WIDTH, 1), 1), max(values.get(_TILE_HEIGHT, 1), 1)
    else:
        piece_width, piece_height = max(width, 1), max(min(values.get(_ROWS_PER_STRIP, height), height), 1)
    across, down = -(-width // piece_width), -(-height // piece_height)
    check_count(across * down * planes, _MAX_PIECES, "TIFF tiles or strips")
    return Header(
        format="TIFF",
        width=width,
        height=height,
        pixels=max(width * height, across * down * piece_width * piece_height) * max(cost, 1),
    )


def _read_directory(data: bytes) -> dict[int, tuple[int, int]]:
    """Number of values of each tag, and the first value where it is a whole number, else 0."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = b"+" in data[2:4]
    at, count_at = (struct.unpack_from(f"{order}Q", data, 8)[0], "Q") if is_big else (0, "H")
    at = at if is_big else struct.unpack_from(f"{order}I", data, 4)[0]
    tag_count = struct.unpack_from(order + count_at, data, at)[0]
    at += struct.calcsize(count_at)
    check_count(tag_count, _MAX_TAGS, "TIFF tags")
    entry = struct.Struct(f"{order}HHQ" if is_big else f"{order}HHI")
    inline = 8 if is_big else 4
    tags: dict[int, tuple[int, int]] = {}
    total = 0
    for _ in range(tag_count):
        if at + entry.size + inline > len(data):
            break
        tag, kind, count = entry.unpack_from(data, at)
        size, value_at = _BYTES.get(kind, 0), at + entry.size
        total += size * count
        if size * count > inline:
            value_at = struct.unpack_from(order + ("Q" if is_big else "I"), data, value_at)[0]
        tags.setdefault(tag, (count, _whole_number(data, order, value_at, size) if count else 0))
        at += entry.size + inline
    check_count(total, len(data), "bytes of TIFF tags, the size of its file")
    return tags


def _whole_number(data: bytes, order: str, at: int, size: int) -> int:
    if at + size > len(data) or size not in (1, 2, 4, 8):
        return 0
    return int.from_bytes(data[at : at + size], "little" if order == "<" else "big")
