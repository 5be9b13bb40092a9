"""Pictures that the tests draw themselves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")


def draw_shape(label: int, rng: np.random.Generator, size: int = 32) -> Image.Image:
    """A shape of a random colour, place and size on noise."""
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
    """Encoded as PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_parquet(path: Path, images: Sequence[bytes], labels: Sequence[int], classes: Sequence[str] = SHAPES) -> None:
    """A data set as the lab reads it."""
    schema = pa.schema(
        [("image", pa.binary()), ("label", pa.int64())], metadata={"classes": "\n".join(classes)} if classes else None
    )
    pq.write_table(pa.table({"image": list(images), "label": [int(v) for v in labels]}, schema=schema), path)
