"""Apply a corruption by name to images or clips."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from abnn_serve.evaluation.corruptions import blur, digital, noise, weather
from abnn_serve.evaluation.corruptions.constants import CORRUPTIONS, Strength, constants_for, strength
from abnn_serve.evaluation.corruptions.noise import Generators
from abnn_serve.evaluation.corruptions.resample import Floats

_FUNCTIONS: dict[str, Callable[[Floats, Strength, Generators], Floats]] = {
    "gaussian noise": noise.gaussian_noise,
    "shot noise": noise.shot_noise,
    "impulse noise": noise.impulse_noise,
    "defocus blur": blur.defocus_blur,
    "glass blur": blur.glass_blur,
    "motion blur": blur.motion_blur,
    "zoom blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "JPEG compression": digital.jpeg_compression,
}
assert tuple(_FUNCTIONS) == CORRUPTIONS  # noqa: S101


def corrupt(images: NDArray[np.uint8], name: str, severity: int, *, seed: int = 0, start: int = 0) -> NDArray[np.uint8]:
    """Corrupt samples as CIFAR-10-C or ImageNet-C, whichever fits their size.

    A sample's result depends on its pixels, its position and the seed alone. The frames of a clip get the same draws.
    Values are rounded, where the authors truncate, and ImageNet-C's final JPEG compression is left out.

    Args:
        images: uint8 (N, H, W, 3), or clips (N, T, H, W, 3).
        name: one of CORRUPTIONS.
        severity: 1 to 5.
        seed: random seed.
        start: position of the first sample in its data set.

    Returns:
        uint8, of the same shape.

    Raises:
        ConfigError: unknown name or severity.
    """
    chosen = strength(name, severity, constants_for(*images.shape[-3:-1]))
    frames = images.shape[1] if images.ndim == 5 else 1
    flat = images.reshape(-1, *images.shape[-3:]).astype(np.float32) / np.float32(255)
    kind = zlib.crc32(name.encode())
    generators = [
        np.random.default_rng([seed, kind, severity, start + at]) for at in range(len(images)) for _ in range(frames)
    ]
    corrupted = _FUNCTIONS[name](flat, chosen, generators)
    pixels: NDArray[np.uint8] = (corrupted.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels.reshape(images.shape)
