"""Blur: defocus, glass, motion and zoom. Arguments are those of `noise`."""

from __future__ import annotations

import numpy as np
import torch

from abnn_serve.evaluation.corruptions.constants import Strength
from abnn_serve.evaluation.corruptions.noise import Generators
from abnn_serve.evaluation.corruptions.resample import Floats, clipped_zoom, gaussian_blur
from abnn_serve.evaluation.corruptions.resample import motion_blur as blur_along


def defocus_blur(x: Floats, strength: Strength, _: Generators) -> Floats:
    """Convolution with a disk; strength: its radius in pixels, and the sigma that softens its edge."""
    radius, soft = strength
    kernel = torch.from_numpy(_disk(radius, soft))
    reach = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    planes = torch.from_numpy(padded).movedim(-1, 1).flatten(0, 1).unsqueeze(1)
    blurred = torch.nn.functional.conv2d(planes, kernel[None, None])
    out: Floats = blurred.view(len(x), 3, *x.shape[1:3]).movedim(1, -1).numpy()
    return out


def _disk(radius: float, soft: float) -> Floats:
    reach = max(8, int(radius))
    at = np.arange(-reach, reach + 1)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(np.float32)
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weights = np.exp(-0.5 * (taps / soft) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        disk = sum(weight * np.roll(disk, tap, axis) for tap, weight in zip(taps, weights, strict=True))
    normalised: Floats = (disk / disk.sum()).astype(np.float32)
    return normalised


def glass_blur(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Blur, replace each pixel by one nearby, and blur again.

    Strength: the blur's sigma, the largest distance in pixels, and the number of times. The paper says that pixels are
    exchanged. The authors' code copies instead, as both sides of its swap are views, and so do their published images.
    """
    sigma, reach, times = strength[0], int(strength[1]), int(strength[2])
    height, width = x.shape[1:3]
    blurred = (gaussian_blur(x, sigma) * 255).astype(np.uint8).reshape(len(x), -1, 3)
    shuffled = np.empty_like(blurred)
    for image, rng in enumerate(generators):
        source = list(range(height * width))
        for _ in range(times):
            moves = rng.integers(-reach, reach, (height, width, 2))
            offsets = (moves[..., 0] * width + moves[..., 1]).ravel().tolist()
            for row in range(height - reach, reach, -1):
                for at in range(row * width + width - reach, row * width + reach, -1):
                    source[at] = source[at + offsets[at]]
        shuffled[image] = blurred[image, source]
    return gaussian_blur(shuffled.reshape(x.shape).astype(np.float32) / np.float32(255), sigma)


def motion_blur(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Motion within 45 degrees of the horizontal; strength: radius and sigma in pixels."""
    radius, sigma = strength
    return np.stack([blur_along(i, radius, sigma, rng.uniform(-45, 45)) for i, rng in zip(x, generators, strict=True)])


def zoom_blur(x: Floats, strength: Strength, _: Generators) -> Floats:
    """Mean of the image and its enlargements; strength: how many, from factor 1, and the step between factors."""
    count, step = int(strength[0]), strength[1]
    total = x + sum(clipped_zoom(x, 1 + step * i) for i in range(count))
    return total / np.float32(count + 1)
