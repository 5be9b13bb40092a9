"""The sample tables and edit lists of an MP4 or MOV file, which FFmpeg expands in memory when it opens the file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from abnn_serve.errors import InputTooLargeError, UnsupportedFormatError
from abnn_serve.media.headers.mp4_boxes import boxes

_ENTRIES_PER_FRAME = 50  # index entries of all tracks: sound has up to fifty samples in the time of a frame
_BOXES_PER_FRAME = 10
_COUNTED = (b"stts", b"ctts", b"stsc", b"stco", b"co64", b"stss", b"stps")  # begin with their number of entries
_SOUND_SAMPLES_PER_ENTRY = 160  # at least, in uncompressed sound


@dataclass(slots=True)
class _Index:
    """Counts over one track, or over the fragments of a file.

    Attributes:
        samples: samples of all tables of sizes and of all fragments.
        edits: entries of edit lists.
        longest: entries of the longest other table, those of images beside the video included.
        chunks: chunks of samples in the file.
        runs: the table of how many samples each chunk has, big-endian 32-bit: first chunk, samples, description.
    """

    samples: int = 0
    edits: int = 0
    longest: int = 0
    chunks: int = 0
    runs: bytes = b""
    is_sound: bool = False
    has_equal_sizes: bool = False
    has_unit_durations: bool = False

    @property
    def entries(self) -> int:
        """Entries of the index that FFmpeg builds; it reads uncompressed sound in chunks, each in some pieces."""
        is_chunked = self.is_sound and self.has_equal_sizes and self.has_unit_durations
        own = _sound_entries(self.runs, self.chunks) if is_chunked else self.samples * max(self.edits, 1)
        return max(own, self.longest)


def check_mp4(data: bytes, max_frames: int) -> None:
    """Check the index of an MP4 or MOV file.

    Raises:
        InputTooLargeError: the index has over fifty entries for each of `max_frames`, or the file too many boxes.
        UnsupportedFormatError: the header is compressed.
        UnreadableInputError: a table where no table belongs.
    """
    tracks = [_Index()]
    limit = _ENTRIES_PER_FRAME * max_frames
    for count, (kind, start, end) in enumerate(boxes(data)):
        if count > _BOXES_PER_FRAME * max_frames:
            raise InputTooLargeError(f"the video has more than {count:,} boxes, which is the limit; shorten it")
        if kind == b"cmov":
            raise UnsupportedFormatError("the video's header is compressed; save it without a compressed header")
        if kind == b"trak":
            tracks.append(_Index())
        _count(tracks[-1], kind, data[start : min(start + 16, end)].ljust(16, b"\0"))
        if kind == b"stsc" and not tracks[-1].runs:
            tracks[-1].runs = data[start + 8 : end]
    entries = sum(track.entries for track in tracks)
    if entries > limit:
        raise InputTooLargeError(
            f"the video's tables and edit lists have {entries:,} entries, the limit is {limit:,}; shorten it, or save "
            "it without edits"
        )


def _count(track: _Index, kind: bytes, body: bytes) -> None:
    first, second, third = struct.unpack_from(">3I", body, 4)
    if kind in _COUNTED:
        track.longest = max(track.longest, first)
    if kind == b"hdlr" and body[8:12] in (b"soun", b"vide"):
        track.is_sound = body[8:12] == b"soun"
    elif kind in (b"stsz", b"stz2"):
        track.samples += second
        track.has_equal_sizes = kind == b"stsz" and first > 0
    elif kind == b"stts":
        track.has_unit_durations = (first, third) == (1, 1)
    elif kind in (b"stco", b"co64"):
        track.chunks = max(track.chunks, first)
    elif kind == b"iinf":
        track.longest = max(track.longest, first if body[0] else first >> 16)
    elif kind == b"iloc":
        track.longest = max(track.longest, *struct.unpack_from(">I" if body[0] > 1 else ">H", body, 6))
    elif kind == b"elst":
        track.edits += first
    elif kind == b"trun":
        track.samples += first


def _sound_entries(runs: bytes, chunks: int) -> int:
    """Entries of uncompressed sound in so many chunks, at most."""
    table = np.frombuffer(runs[: len(runs) // 12 * 12], ">u4").reshape(-1, 3).astype(np.int64)
    if not len(table):
        return chunks
    pieces = np.maximum(1, -(-table[:, 1] // _SOUND_SAMPLES_PER_ENTRY))
    lengths = np.diff(np.append(table[:, 0], chunks + 1))
    if (lengths < 0).any():
        return chunks * int(pieces.max())
    return int((lengths * pieces).sum())
