"""Small files whose decoding costs much: the inputs of the hostile reading, and their neighbours."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from tests.drawing import encode_video

_LONG = 4


def tiff(tags: Mapping[int, int | Sequence[int]], body: bytes = b"") -> bytes:
    """A little-endian TIFF file with these tags, all LONG; `body` begins at byte 8."""
    at = 8 + len(body)
    directory = struct.pack("<H", len(tags))
    tail_at, tail = at + 2 + 12 * len(tags) + 4, b""
    for tag, value in sorted(tags.items()):
        values = [value] if isinstance(value, int) else list(value)
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            packed, tail = struct.pack("<I", tail_at + len(tail)), tail + packed
        directory += struct.pack("<HHI", tag, _LONG, len(values)) + packed
    return b"II*\0" + struct.pack("<I", at) + body + directory + bytes(4) + tail


def tiled_tiff(size: tuple[int, int], tile: tuple[int, int], tiles: int) -> bytes:
    """A grey TIFF whose tiles are one deflated row of zeros."""
    row = zlib.compress(bytes(16))
    return tiff(
        {256: size[0], 257: size[1], 258: 8, 259: 8, 262: 1, 277: 1, 322: tile[0], 323: tile[1]}
        | {324: [8] * tiles if tiles > 1 else 8, 325: [len(row)] * tiles if tiles > 1 else len(row)},
        row,
    )


def striped_tiff(strips: int) -> bytes:
    """A TIFF one pixel wide, with a strip for each row."""
    return tiff(
        {256: 1, 257: strips, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1, 273: [8] * strips, 279: [1] * strips}, bytes(8)
    )


def jpeg(size: int = 64, **options: object) -> bytes:
    """A red JPEG image."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(out, "JPEG", **options)
    return out.getvalue()


def many_scans(scans: int, *, multi_picture: bool = False) -> bytes:
    """A progressive JPEG whose last scan is repeated; with `multi_picture`, Pillow takes it for an MPO file."""
    data = jpeg(progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    data = data[:-2] + scan * scans + b"\xff\xd9"
    entries = struct.pack("<H", 3) + struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    entries += struct.pack("<HHII", 0xB001, 4, 1, 2) + struct.pack("<HHII", 0xB002, 7, 32, 50)
    body = b"MPF\0II*\0" + struct.pack("<I", 8) + entries + bytes(4)
    body += struct.pack("<IIIHH", 0x030000, len(data), 0, 0, 0) + struct.pack("<IIIHH", 0, len(data), 0, 0, 0)
    segment = b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    return data[:2] + segment + data[2:] if multi_picture else data


def slow_jpeg() -> bytes:
    """A progressive JPEG of noise, 600x600 pixels in ninety scans: 5 MB, and 0.2 s of processor time."""
    out = io.BytesIO()
    Image.fromarray(noise(1, side=600)[0]).save(out, "JPEG", progressive=True, quality=50)
    data = out.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 85 + b"\xff\xd9"


def after_first_segment(segments: bytes) -> bytes:
    """A JPEG image with bytes after its first segment."""
    data = jpeg()
    return data[:20] + segments + data[20:]


def png_with(chunks: bytes) -> bytes:
    """A PNG image with chunks before its pixels."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    data = out.getvalue()
    return data[:33] + chunks + data[33:]


def png_chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def gif_with(blocks: bytes) -> bytes:
    """A GIF image with bytes before its first frame."""
    out = io.BytesIO()
    Image.new("P", (8, 8)).save(out, "GIF")
    data = out.getvalue()
    at = data.index(b",\0\0\0\0", 13)
    return data[:at] + blocks + data[at:]


def animated_webp(width: int, height: int) -> bytes:
    """An animated WebP image of two small frames on a canvas of this size."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(out.getvalue())
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def mp4_with(data: bytes, boxes: Mapping[bytes, bytes]) -> bytes:
    """An MP4 file whose header is at its end, with the bodies of some boxes replaced."""
    for kind, body in boxes.items():
        data = _replace(data, 0, len(data), kind, body)
    return data


def overlapping_packets(samples: int, side: int = 64) -> bytes:
    """An MP4 file all of whose samples are the same bytes: those of four frames of noise."""
    data = encode_video(noise(4, side), codec="mpeg4")
    start, size = data.index(b"mdat") + 4, int.from_bytes(data[data.index(b"mdat") - 4 :][:4], "big") - 8
    tables = {b"stsz": full_box(size, samples), b"stsc": full_box(1, 1, 1, 1)}
    tables[b"stco"] = full_box(samples, *[start] * samples)
    return mp4_with(data, tables | {b"stts": full_box(1, samples, 512), b"elst": full_box(1, 40 * samples, 0, 0x10000)})


def mp4_with_box_in_track(data: bytes, addition: bytes) -> bytes:
    """An MP4 file with more boxes at the end of its first track."""
    at = data.index(b"mdia") - 4
    at += int.from_bytes(data[at:][:4], "big")
    for parent in (b"moov", b"trak"):
        size = data.index(parent) - 4
        grown = int.from_bytes(data[size:][:4], "big") + len(addition)
        data = data[:size] + grown.to_bytes(4, "big") + data[size + 4 :]
    return data[:at] + addition + data[at:]


def box(kind: bytes, body: bytes) -> bytes:
    """A box of an MP4 file."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(*values: int) -> bytes:
    """The body of a box: version and flags 0, then 32-bit numbers."""
    return struct.pack(f">I{len(values)}I", 0, *values)


def _replace(data: bytes, at: int, end: int, kind: bytes, body: bytes) -> bytes:
    while at < end:
        size, here = struct.unpack_from(">I4s", data, at)
        if here == kind:
            return data[:at] + struct.pack(">I4s", 8 + len(body), kind) + body + data[at + size :]
        if here in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"):
            inside = _replace(data, at + 8, at + size, kind, body)
            if len(inside) != len(data) or inside != data:
                grown = struct.pack(">I", size + len(inside) - len(data))
                return inside[:at] + grown + inside[at + 4 :]
        at += size
    return data


def mov_of(packets: Sequence[bytes], codec: str, size: tuple[int, int] = (32, 32)) -> bytes:
    """A MOV file of these packets, which declares this size."""
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "rgb24" if codec == "png" else "yuvj420p"
        for index, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            packet.is_keyframe = True
            file.mux(packet)
    return out.getvalue()


def noise(count: int, side: int = 64) -> list[np.ndarray]:
    """Frames of noise, uint8 (side, side, 3)."""
    return list(np.random.default_rng(0).integers(0, 255, (count, side, side, 3), np.uint8))
