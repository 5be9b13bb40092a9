"""The sample tables and edit lists of an MP4 or MOV file, which FFmpeg expands in memory when it opens the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from abnn_serve.errors import InputTooLargeError, UnsupportedFormatError

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"udta", b"meta", b"dinf")
_MAX_DEPTH = 8
_ENTRIES_PER_FRAME = 50  # index entries of all tracks: sound has up to fifty samples in the time of a frame
_BOXES_PER_FRAME = 10


@dataclass(slots=True)
class _Index:
    """Counts over one track, or over the fragments of a file."""

    samples: int = 0
    edits: int = 0
    is_sound: bool = False
    has_equal_sizes: bool = False
    has_unit_durations: bool = False

    @property
    def entries(self) -> int:
        """Entries of the index that FFmpeg builds; it reads uncompressed sound in chunks, without one."""
        is_chunked = self.is_sound and self.has_equal_sizes and self.has_unit_durations
        return 0 if is_chunked else self.samples * max(self.edits, 1)


def check_mp4(data: bytes, max_frames: int) -> None:
    """Check the index of an MP4 or MOV file.

    Raises:
        InputTooLargeError: the index has over fifty entries for each of `max_frames`, or the file too many boxes.
        UnsupportedFormatError: the header is compressed.
    """
    tracks = [_Index()]
    limit = _ENTRIES_PER_FRAME * max_frames
    for count, (kind, at, end) in enumerate(_boxes(data, 0, len(data), 0)):
        if count > _BOXES_PER_FRAME * max_frames:
            raise InputTooLargeError(f"the video has more than {count:,} boxes, which is the limit; shorten it")
        if kind == b"cmov":
            raise UnsupportedFormatError("the video's header is compressed; save it without a compressed header")
        if kind == b"trak":
            tracks.append(_Index())
        _count(tracks[-1], kind, data[at : min(at + 16, end)].ljust(16, b"\0"))
    entries = sum(track.entries for track in tracks)
    if entries > limit:
        raise InputTooLargeError(
            f"the video's tables and edit lists have {entries:,} entries, the limit is {limit:,}; shorten it, or save "
            "it without edits"
        )


def _count(track: _Index, kind: bytes, body: bytes) -> None:
    first, second, third = struct.unpack_from(">3I", body, 4)
    if kind == b"hdlr" and body[8:12] in (b"soun", b"vide"):
        track.is_sound = body[8:12] == b"soun"
    elif kind in (b"stsz", b"stz2"):
        track.samples += second
        track.has_equal_sizes = kind == b"stsz" and first > 0
    elif kind == b"stts":
        track.has_unit_durations = (first, third) == (1, 1)
    elif kind == b"elst":
        track.edits += first
    elif kind == b"trun":
        track.samples += first


def _boxes(data: bytes, at: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the body of each box, at every depth that FFmpeg reads."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and start + 8 <= end:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        box_end = end if size == 0 else min(at + size, end)
        if box_end < start:
            return
        yield kind, start, box_end
        if kind in _CONTAINERS and depth < _MAX_DEPTH:
            yield from _boxes(data, start + (4 if kind == b"meta" else 0), box_end, depth + 1)
        at = box_end
