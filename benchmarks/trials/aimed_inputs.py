"""The requests of docs/security.md: one small input each that once took gigabytes or seconds."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.drawing import encode_video
from tests.media import crafted
from tests.media.matroska import Compression, mkv_of

_VIDEO = "/classify_video"
_encode: Callable[..., bytes] = encode_video
_mp4: Callable[..., bytes] = crafted.mp4_with
_mkv: Callable[..., bytes] = mkv_of
_mov: Callable[..., bytes] = crafted.mov_of
_in_track: Callable[..., bytes] = crafted.mp4_with_box_in_track


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One request, sent `copies` times at once.

    Attributes:
        make: returns the body.
        path: may contain `{model}`, the served model's name.
        content_type: of the body.
    """

    make: Callable[[], bytes]
    path: str = "/classify"
    content_type: str = "application/octet-stream"
    copies: int = 1


def requests(shape: tuple[int, ...]) -> dict[str, Hostile]:
    """Hostile requests by finding; `shape` is that of the model's input."""
    infer = "/v2/models/{model}/infer"
    return {
        "S1 text in a JSON tensor": Hostile(make=lambda: _text(shape), path=infer, content_type="application/json"),
        "S2 MP4 sample table": Hostile(make=_table, path=_VIDEO),
        "S2 MP4 edit list": Hostile(make=_edits, path=_VIDEO),
        "S2 MP4 sample table in an odd box": Hostile(make=_hidden_table, path=_VIDEO),
        "S3 packets that share bytes": Hostile(make=_overlapping, path=_VIDEO),
        "S3 Matroska packets without their beginning": Hostile(make=lambda: _matroska("stripped"), path=_VIDEO),
        "S3 Matroska packets deflated": Hostile(make=lambda: _matroska("zlib"), path=_VIDEO),
        "S4 TIFF tiles in number": Hostile(make=lambda: crafted.tiled_tiff((1, 5_000), (1_000_000, 16), 313), copies=2),
        "S4 TIFF tile in size": Hostile(make=lambda: crafted.tiled_tiff((1, 1), (32_768, 32_768), 1)),
        "S5 JPEG scans in an MPO": Hostile(make=lambda: crafted.many_scans(4_000, multi_picture=True)),
        "S9 multipart of boundaries": Hostile(
            make=lambda: b"\r\n--B" * 4_800_000, path=_VIDEO, content_type="multipart/form-data; boundary=B"
        ),
        "S10 JPEG scans in a MOV": Hostile(make=_scans_in_mov, path=_VIDEO),
        "S11 PNG frame in a MOV": Hostile(make=lambda: crafted.mov_of([_png(10_000, 10_000)], "png"), path=_VIDEO),
        "S15 wide PNG": Hostile(make=lambda: _png(156_250, 256)),
        "S15 wide PNG with transparency": Hostile(make=lambda: _png(156_250, 128, channels=4)),
        "S15 wide PNG with transparency, too large": Hostile(make=lambda: _png(156_250, 256, channels=4)),
        "S15 animated WebP canvas": Hostile(make=lambda: crafted.animated_webp(6_320, 6_320)),
        "S16 TIFF strips": Hostile(make=lambda: crafted.striped_tiff(500_000)),
        "S16 JPEG fill bytes": Hostile(make=lambda: crafted.after_first_segment(b"\xff" * 1_000_000)),
        "S16 JPEG segments": Hostile(make=lambda: crafted.after_first_segment(b"\xff\xe1\0\2" * 250_000)),
        "S16 PNG chunks": Hostile(make=lambda: crafted.png_with(crafted.png_chunk(b"abCd") * 80_000)),
    }


def valid() -> dict[str, Hostile]:
    """Large valid requests, for the steady state of memory."""
    return {
        "valid image": Hostile(make=lambda: crafted.jpeg(2_500), copies=2),
        "valid video": Hostile(make=_film, path=_VIDEO, copies=2),
    }


def pipelined(path: str, count: int) -> bytes:
    """Requests on one connection, without waiting for responses (S6, S8)."""
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode() * count


def trailers(count: int) -> bytes:
    """A chunked request that ends with many trailers (S7)."""
    head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"0\r\n" + b"a:b\r\n" * count


def key_in_trailer(key: str) -> bytes:
    """A request whose key is a trailer (S7)."""
    head = b"GET /model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"0\r\nX-API-Key: " + key.encode() + b"\r\n\r\n"


def _text(shape: tuple[int, ...]) -> bytes:
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, *shape]}
    return json.dumps({"inputs": [{**tensor, "data": ["x" * 18_000, *[""] * 18_000]}]}, separators=(",", ":")).encode()


def _film() -> bytes:
    return _encode(np.stack(crafted.noise(4, 64)), codec="mpeg4")


def _table() -> bytes:
    return _mp4(_film(), {b"stsz": crafted.full_box(1, 80_000_000)})


def _hidden_table() -> bytes:
    table = crafted.box(b"stsz", crafted.full_box(1, 80_000_000))
    return _in_track(_film(), crafted.box(b"tref", table))


def _matroska(compression: Compression) -> bytes:
    """200 packets of a megabyte."""
    image = crafted.jpeg()
    packet = image[:-2] + bytes(1_000_000) + image[-2:]
    return _mkv([packet] * 200, (64, 64), compression, prefix=packet[:-2])


def _edits() -> bytes:
    return _mp4(_film(), {b"elst": crafted.full_box(1_000, *[1, 0, 0x10000] * 1_000)})


def _overlapping() -> bytes:
    """2,000 samples that are all the same megabyte."""
    film = _film()
    start = film.index(b"mdat") + 4
    filler = struct.pack(">I4s", 1_000_008, b"free") + bytes(1_000_000)
    tables = {
        b"stsz": crafted.full_box(1_000_000, 2_000),
        b"stsc": crafted.full_box(1, 1, 1, 1),
        b"stco": crafted.full_box(2_000, *[start] * 2_000),
        b"stts": crafted.full_box(1, 2_000, 512),
    }
    return _mp4(film, tables) + filler


def _scans_in_mov() -> bytes:
    data = crafted.jpeg(3_000, progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return _mov([data[:-2] + scan * (900_000 // len(scan)) + b"\xff\xd9"], "mjpeg", (3_000, 3_000))


def _png(width: int, height: int, channels: int = 3) -> bytes:
    """A black PNG image, packed row by row."""
    packer, row = zlib.compressobj(1), bytes(1 + channels * width)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, 0)
    chunks = crafted.png_chunk(b"IHDR", header), crafted.png_chunk(b"IDAT", pixels), crafted.png_chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
