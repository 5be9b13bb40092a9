"""Encoded images, drawn with fixed seeds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def noise_pngs(size: int, count: int = 16) -> list[bytes]:
    """PNG files of uniform noise, `size` pixels square."""
    rng = np.random.default_rng(5)
    return [
        _encoded(Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)), "PNG") for _ in range(count)
    ]


def smooth_jpeg(size: int, rng: np.random.Generator) -> bytes:
    """A JPEG file of smooth noise, about as hard to decode as a photograph."""
    small = rng.integers(0, 256, (max(size // 8, 2),) * 2 + (3,), dtype=np.uint8)
    image = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
    return _encoded(image, "JPEG", quality=90)


def shape_png(index: int, size: int) -> bytes:
    """A PNG file of an ellipse, a rectangle or a line (by `index` modulo 3) on noise."""
    rng = np.random.default_rng(index)
    image = Image.fromarray(rng.integers(0, 90, (size, size, 3), dtype=np.uint8))
    corner = rng.integers(0, size // 2, 2).tolist()
    box = (*corner, corner[0] + size // 2 - 1, corner[1] + size // 2 - 1)
    colour = tuple(rng.integers(100, 255, 3).tolist())
    pen = ImageDraw.Draw(image)
    (pen.ellipse, pen.rectangle, pen.line)[index % 3](box, fill=colour)
    return _encoded(image, "PNG")


def _encoded(image: Image.Image, file_format: str, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()
