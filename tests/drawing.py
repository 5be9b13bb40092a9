"""Draws the images and videos of the tests, and encodes them."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")


def draw_shape(label: int, rng: np.random.Generator, size: int = 32) -> Image.Image:
    """A shape of random colour, position and size on noise."""
    noise = rng.integers(0, 90, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    half = int(rng.integers(size // 5, size // 3))
    x, y = (int(v) for v in rng.integers(half, size - half, 2))
    colour = tuple(int(v) for v in rng.integers(120, 256, 3))
    box = (x - half, y - half, x + half, y + half)
    pen = ImageDraw.Draw(image)
    if SHAPES[label] == "circle":
        pen.ellipse(box, fill=colour)
    elif SHAPES[label] == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    return image


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_parquet(path: Path, images: Sequence[bytes], labels: Sequence[int], classes: Sequence[str] = SHAPES) -> None:
    """Write a Parquet data set as `load_data` reads it."""
    schema = pa.schema(
        [("image", pa.binary()), ("label", pa.int64())], metadata={"classes": "\n".join(classes)} if classes else None
    )
    pq.write_table(pa.table({"image": list(images), "label": [int(v) for v in labels]}, schema=schema), path)


def moving_square(count: int = 24, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of a white square that moves from left to right on grey; frame i is brighter than frame i - 1."""
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 40 + 3 * i, np.uint8)
        x = (width - 16) * i // max(count - 1, 1)
        frame[height // 3 : height // 3 + 16, x : x + 16] = 250
        frames.append(frame)
    return frames


def encode_video(
    frames: Sequence[np.ndarray],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    fps: int = 25,
    times: Sequence[int] | None = None,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """Encode frames, uint8 (H, W, 3 or 4), as a video file; `times` are in milliseconds."""
    out = io.BytesIO()
    scheduling = os.sched_getscheduler(0), os.sched_getparam(0)
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
            picture.pts, picture.time_base = (times[i], Fraction(1, 1000)) if times else (i, Fraction(1, fps))
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    os.sched_setscheduler(0, *scheduling)  # SVT-AV1 makes the process real-time where it may
    return out.getvalue()


def claiming_rate(flv: bytes, rate: float) -> bytes:
    """An FLV file with another frame rate in its metadata."""
    head, key, rest = flv.partition(b"framerate\0")
    return head + key + struct.pack(">d", rate) + rest[8:]


def passing_square(rng: np.random.Generator, *, rightwards: bool, count: int = 12, side: int = 32) -> list[np.ndarray]:
    """Frames of a bright square that moves over noise."""
    noise, y = rng.integers(0, 90, (side, side, 3), dtype=np.uint8), int(rng.integers(0, side - 12))
    colour = rng.integers(160, 256, 3)
    frames = []
    for i in range(count):
        x = (side - 12) * (i if rightwards else count - 1 - i) // (count - 1)
        frame = noise.copy()
        frame[y : y + 12, x : x + 12] = colour
        frames.append(frame)
    return frames
