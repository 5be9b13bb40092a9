"""The header of a JPEG file: its segments before the first scan, and the number of its scans."""

from __future__ import annotations

from abnn_serve.errors import InputTooLargeError
from abnn_serve.media.headers.header import FOURTH_CHANNEL, Header, check_count

_MAX_SCANS = 100  # each scan costs a pass over all pixels; encoders write about ten
_MAX_SEGMENTS = 1000
_MAX_PADDING = 4096  # Pillow reads bytes between segments one at a time
_PLAIN_SEGMENTS = 64
_PLAIN_METADATA = 256_000
_SCAN, _SOI, _MULTI_PICTURE = b"\xff\xda", b"\xff\xd8\xff", b"MPF\0"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that declare a size
_BASELINE = {0xC0, 0xC1}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}


def is_jpeg(data: bytes) -> bool:
    """Whether the data begin as a JPEG file, of one picture or several."""
    return data.startswith(_SOI)


def check_scans(data: bytes | memoryview) -> int:
    """Count the scans of JPEG data; raises InputTooLargeError if there are too many."""
    scans = bytes(data).count(_SCAN)
    if scans > _MAX_SCANS:
        raise InputTooLargeError(
            f"the JPEG image has {scans:,} scans, the limit is {_MAX_SCANS}; save it again without progressive scans"
        )
    return scans


def read_jpeg(data: bytes) -> Header:
    """Read the header of JPEG data.

    Raises:
        InputTooLargeError: too many scans, segments, or bytes between segments.
    """
    scans = check_scans(data)
    frames: list[tuple[int, int, int, int]] = []
    segments = padding = metadata = 0
    at, is_plain = 2, True
    while at + 4 <= len(data):
        marker = data.find(b"\xff", at)
        if marker < 0:
            return Header(format="JPEG")
        code_at = marker + 1
        while code_at < len(data) and data[code_at] == 0xFF and padding <= _MAX_PADDING:
            code_at += 1
            padding += 1
        padding += marker - at
        check_count(padding, _MAX_PADDING, "bytes between its JPEG segments")
        code = data[code_at] if code_at < len(data) else 0
        at = code_at + 1
        if code == 0 or code in _WITHOUT_LENGTH:
            padding += 2
            continue
        if code == _SCAN[1]:
            break
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + 16]
        if code in _FRAMES and len(body) >= 6:
            size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
            frames.append((code, *size, body[5]))
        segments += 1
        check_count(segments, _MAX_SEGMENTS, "JPEG segments")
        if code >= 0xE0:
            metadata += length
        is_plain = is_plain and length >= 2 and not (code == 0xE2 and body.startswith(_MULTI_PICTURE))
        at += max(length, 2)
    if not frames:
        return Header(format="JPEG")
    code, width, height, components = frames[-1]
    return Header(
        format="JPEG",
        width=width,
        height=height,
        pixels=width * height * (FOURTH_CHANNEL if components > 3 else 1),
        is_plain=is_plain
        and len(frames) == 1
        and code in _BASELINE
        and components in (1, 3)
        and data.count(_SCAN, 0, at) == scans
        and padding == 0
        and segments <= _PLAIN_SEGMENTS
        and metadata <= _PLAIN_METADATA,
    )
