"""Targets of the decoders: headers of images and MP4 files, and whole images and videos."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image

from abnn_serve.media.headers import image as headers
from abnn_serve.media.headers.mp4 import check_mp4
from abnn_serve.media.image import load_image
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import encode_video
from tests.media import crafted
from tests.media.matroska import mkv_of

IMAGE_TOKENS = (
    *(b"\xff\xd8\xff", b"\xff\xda", b"\xff\xe1", b"\xff\xd9", b"IHDR", b"IDAT", b"IEND", b"acTL", b"iCCP", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"RIFF", b"WEBP", b"VP8X", b"VP8L", b"ANIM", b"ANMF", b"BM", b"\0;", b"!\xff"),
)
MP4_TOKENS = (*(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz", b"stco", b"stts", b"elst"), b"ftyp", b"\0\0\0\1")
_IMAGES = ImageLimits(max_bytes=1 << 17, max_pixels=1_000_000)
_VIDEOS = VideoLimits(max_bytes=1 << 18, max_pixels=100_000, max_frames=500, max_seconds=60, decode_seconds=2)
_IMAGE = InputSpec(height=8, width=8)
_CLIPS = InputSpec(height=8, width=8, sampling=Sampling(frames=2, stride=2, clips=2))


def read_header(data: bytes) -> object:
    """Read the header of an image."""
    return headers.read_header(data)


def read_image(data: bytes) -> object:
    """Decode an image."""
    return load_image(data, _IMAGE, _IMAGES)


def image_seeds() -> list[bytes]:
    """Small images of every format, and those whose decoding costs much (S4, S5, S15, S16)."""
    seeds = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        for mode in ("RGB", "L", "P"):
            out = io.BytesIO()
            image = Image.fromarray(crafted.noise(1, 16)[0]).convert(mode)
            (image.convert("RGB") if kind in {"JPEG", "WEBP"} and mode == "P" else image).save(out, kind)
            seeds.append(out.getvalue())
    return [
        *seeds,
        crafted.tiled_tiff((1, 500), (1_000_000, 16), 40),
        crafted.tiled_tiff((1, 1), (32_768, 32_768), 1),
        crafted.striped_tiff(500),
        crafted.many_scans(150),
        crafted.many_scans(150, multi_picture=True),
        crafted.after_first_segment(b"\xff\xe1\0\2" * 500),
        crafted.after_first_segment(b"\xff" * 5_000),
        crafted.png_with(crafted.png_chunk(b"abCd") * 500),
        crafted.gif_with(b"!\xfe\x01a\0" * 500),
        crafted.animated_webp(6_320, 6_320),
    ]


def read_mp4(data: bytes) -> object:
    """Check the tables of an MP4 file."""
    return check_mp4(data, 500)


def mp4_seeds() -> list[bytes]:
    """An MP4 file, and its tables and edit lists that declare more than they hold (S2)."""
    film = _film("mp4", "libx264")
    table = crafted.box(b"stsz", crafted.full_box(1, 80_000_000))
    return [
        film,
        crafted.mp4_with(film, {b"stsz": crafted.full_box(1, 80_000_000)}),
        crafted.mp4_with(film, {b"stts": crafted.full_box(1, 80_000_000, 1)}),
        crafted.mp4_with(film, {b"stco": crafted.full_box(80_000_000, 8)}),
        crafted.mp4_with_box_in_track(film, crafted.box(b"tref", table)),
        crafted.mp4_with_box_in_track(film, crafted.box(b"meta", bytes(4) + crafted.box(b"hdlr", bytes(25)) + table)),
    ]


def read_video(data: bytes) -> object:
    """Decode a video; FFmpeg may say that it would need too much memory, which isolated decoding reports."""
    with contextlib.suppress(MemoryError):
        return decode_video(data, _CLIPS, _VIDEOS)
    return None


def video_seeds() -> list[bytes]:
    """Small videos of several containers, and those whose decoding costs much (S2, S10, S11)."""
    scans = crafted.mov_of([crafted.many_scans(150)], "mjpeg")
    packed = mkv_of([crafted.jpeg(32)] * 4, (32, 32), "zlib")
    return [
        *mp4_seeds(),
        packed,
        _film("avi", "mpeg4"),
        _film("matroska", "mpeg4"),
        _film("mpegts", "mpeg2video"),
        scans,
    ]


def _film(container: str, codec: str) -> bytes:
    frames = np.stack(crafted.noise(6, 32))
    return encode_video(frames, container=container, codec=codec)
