"""The boxes of an MP4 or MOV file, wherever FFmpeg would find them.

FFmpeg reads a table in any box that it descends into, so a check that descends less deep would not see all tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from abnn_serve.errors import UnreadableInputError

_CONTAINERS = frozenset(
    [
        *(b"moov", b"hoov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts", b"udta", b"meta", b"ilst", b"tref"),
        *(b"moof", b"traf", b"mvex", b"sinf", b"schi", b"wave"),
    ]
)
_SKIPPED = (b"mdat", b"free", b"skip")  # may hold anything, such as the tables of an earlier version of the file
_MAX_DEPTH = 12  # FFmpeg refuses deeper ones
_SIZES = (b"stsz", b"stz2")
_TABLES = (*_SIZES, b"elst", b"trun", b"stsc", b"stco", b"co64")


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the body of each box, at every depth.

    Raises:
        UnreadableInputError: a table where no table belongs.
    """
    top = list(sibling_boxes(data, 0, len(data)))
    containers = _CONTAINERS
    if not any(kind in (b"moov", b"hoov") for kind, _, _ in top):
        containers |= {b"free"}  # FFmpeg looks for the header there, too
    declared = seen = 0
    for kind, start, end in top:
        yield kind, start, end
        if kind in containers:
            declared += _count_sizes(data, start, end)
            for inner, inner_start, inner_end in _descend(data, kind, start, end, containers, 1):
                yield inner, inner_start, inner_end
                seen += inner in _SIZES
                if inner in _SKIPPED and inner not in containers:
                    seen += _count_sizes(data, inner_start, inner_end)
        elif kind not in _SKIPPED:
            declared += _count_sizes(data, start, end)
    if declared > seen:
        raise UnreadableInputError("the video's header is damaged: it has tables of samples in odd places")


def _descend(
    data: bytes, parent: bytes, start: int, end: int, containers: frozenset[bytes], depth: int
) -> Iterator[tuple[bytes, int, int]]:
    at = _handler(data, start, end) if parent == b"meta" else start
    for kind, inner, inner_end in sibling_boxes(data, at, end):
        if kind == b"stsd" and any(data.find(name, inner, inner_end) >= 0 for name in _TABLES):
            raise UnreadableInputError("the video's header is damaged: the description of its samples has tables")
        yield kind, inner, inner_end
        if kind in containers and depth < _MAX_DEPTH:
            yield from _descend(data, kind, inner, inner_end, containers, depth + 1)


def _count_sizes(data: bytes, start: int, end: int) -> int:
    return sum(data.count(name, start, end) for name in _SIZES)


def sibling_boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes that follow one another from `at` to `end`."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and start + 8 <= end:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        box_end = end if size == 0 else min(at + size, end)
        if box_end < start:
            return
        yield kind, start, box_end
        at = box_end


def _handler(data: bytes, start: int, end: int) -> int:
    """Where the boxes of a `meta` box begin: with its handler, which FFmpeg looks for in steps of four bytes."""
    found = data.find(b"hdlr", start, end)
    while found >= 0 and (found - start) % 4:
        found = data.find(b"hdlr", found + 1, end)
    return found - 4 if found >= 0 else end
