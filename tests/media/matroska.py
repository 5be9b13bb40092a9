"""Matroska files, written element by element, whose packets are larger than their bytes in the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Literal

_STRIPPED, _ZLIB = 3, 0  # values of ContentCompAlgo
Compression = Literal["none", "stripped", "zlib"]


def mkv_of(
    packets: Sequence[bytes], size: tuple[int, int], compression: Compression = "none", prefix: bytes = b""
) -> bytes:
    """A file of one track in Motion JPEG.

    Args:
        packets: one JPEG image for each frame.
        size: width and height that the track declares.
        compression: how packets are stored: as they are, without `prefix`, or deflated.
        prefix: what all packets begin with.
    """
    encodings = b""
    if compression != "none":
        algorithm = _element(0x4254, bytes([_STRIPPED if compression == "stripped" else _ZLIB]))
        settings = _element(0x4255, prefix) if compression == "stripped" else b""
        encodings = _element(0x6D80, _element(0x6240, _element(0x5034, algorithm + settings)))
    video = _element(0xE0, _element(0xB0, struct.pack(">H", size[0])) + _element(0xBA, struct.pack(">H", size[1])))
    track = _element(0xD7, b"\1") + _element(0x73C5, b"\1") + _element(0x83, b"\1") + _element(0x86, b"V_MJPEG")
    blocks = b"".join(
        _element(0xA3, struct.pack(">BhB", 0x81, 40 * index, 0x80) + _stored(packet, compression, prefix))
        for index, packet in enumerate(packets)
    )
    head = _element(0x1A45DFA3, _element(0x4282, b"matroska"))
    tracks = _element(0x1654AE6B, _element(0xAE, track + video + encodings))
    return head + _element(0x18538067, tracks + _element(0x1F43B675, _element(0xE7, b"\0") + blocks))


def _stored(packet: bytes, compression: Compression, prefix: bytes) -> bytes:
    if compression == "stripped":
        return packet.removeprefix(prefix)
    return zlib.compress(packet) if compression == "zlib" else packet


def _element(name: int, body: bytes) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + b"\1" + len(body).to_bytes(7, "big") + body
