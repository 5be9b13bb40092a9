"""Digital corruptions: contrast, elastic transform, pixelation and JPEG. Arguments are those of `noise`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from abnn_serve.evaluation.corruptions.constants import Strength
from abnn_serve.evaluation.corruptions.noise import Generators
from abnn_serve.evaluation.corruptions.resample import Floats, gaussian_blur, sample_at


def contrast(x: Floats, strength: Strength, _: Generators) -> Floats:
    """Distance of each channel from its mean reduced; strength: to which share."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    flat: Floats = (x - mean) * np.float32(strength[0]) + mean
    return flat


def elastic_transform(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """A random affine map, then a smooth random displacement.

    Strength, each as a share of the image's height: the displacement's factor, the sigma that smooths it, and the
    largest shift of the three points that define the affine map.
    """
    height, width = x.shape[1:3]
    alpha, sigma, shift = (height * value for value in strength)
    return np.stack(
        [_warp(image, alpha, sigma, shift, (height, width), rng) for image, rng in zip(x, generators, strict=True)]
    )


def _warp(
    image: Floats, alpha: float, sigma: float, shift: float, size: tuple[int, int], rng: np.random.Generator
) -> Floats:
    centre, reach = np.array(size) // 2, min(size) // 3
    points = np.array([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach], np.float64)
    moved = points + rng.uniform(-shift, shift, points.shape)
    back = np.linalg.lstsq(np.c_[moved, np.ones(3)], points, rcond=None)[0]  # from moved points to original ones
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float64)
    source = columns[..., None] * back[0] + rows[..., None] * back[1] + back[2]  # (x, y), as the authors' points
    image = sample_at(image, source[..., 1], source[..., 0])
    noise = rng.uniform(-1, 1, (*size, 2)).astype(np.float32)
    displacement = alpha * gaussian_blur(noise, sigma, truncate=3, reflect=True)
    return sample_at(image, rows + displacement[..., 1], columns + displacement[..., 0])


def pixelate(x: Floats, strength: Strength, _: Generators) -> Floats:
    """Reduced and enlarged by the box filter; strength: to which share of its size."""
    height, width = x.shape[1:3]
    small = max(int(width * strength[0]), 1), max(int(height * strength[0]), 1)
    pixelated = [
        _image(image).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX) for image in x
    ]
    return np.stack([np.asarray(image, np.float32) / 255 for image in pixelated])


def jpeg_compression(x: Floats, strength: Strength, _: Generators) -> Floats:
    """Encoded as JPEG and decoded; strength: the quality."""
    decoded = []
    for image in x:
        buffer = io.BytesIO()
        _image(image).save(buffer, "JPEG", quality=int(strength[0]))
        decoded.append(np.asarray(Image.open(buffer), np.float32) / 255)
    return np.stack(decoded)


def _image(x: Floats) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))
