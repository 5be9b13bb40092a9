"""Weather: snow, frost, fog and brightness. Arguments are those of `noise`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from abnn_serve.evaluation.corruptions.constants import Strength
from abnn_serve.evaluation.corruptions.noise import Generators
from abnn_serve.evaluation.corruptions.resample import Floats, clipped_zoom
from abnn_serve.evaluation.corruptions.resample import motion_blur as blur_along

_GREY = np.array([0.299, 0.587, 0.114], np.float32)

# Mean colour and contrast of the photographs of frost that the authors draw from.
_FROST = (
    ((0.30, 0.58, 0.65), 0.07), ((0.79, 0.81, 0.84), 0.09), ((0.79, 0.81, 0.84), 0.09),
    ((0.54, 0.60, 0.65), 0.11), ((0.44, 0.48, 0.53), 0.17),
)  # fmt: skip


def snow(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Flakes that fall, over a whitened image.

    Strength: mean and standard deviation of the flakes, their enlargement, the threshold below which there is none,
    radius and sigma of their motion, and the share of the original image.
    """
    mean, deviation, zoom, threshold, radius, sigma, share = strength
    drawn = np.stack([mean + deviation * rng.standard_normal(x.shape[1:3]) for rng in generators])
    layers = clipped_zoom(drawn[..., None].astype(np.float32), zoom)
    layers = np.where(layers < threshold, 0, layers).clip(0, 1)
    falling = np.stack(
        [
            blur_along(layer, radius, sigma, rng.uniform(-135, -45))
            for layer, rng in zip(layers, generators, strict=True)
        ]
    )
    whitened = np.maximum(x, 1.5 * (x @ _GREY)[..., None] + 0.5)
    snowy: Floats = share * x + (1 - share) * whitened + falling + falling[:, ::-1, ::-1]
    return snowy


def frost(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Ice crystals over the image; strength: shares of the image and of the frost.

    The authors blend crops of six photographs. These are drawn, with the photographs' mean colours and contrasts.
    """
    ice = np.stack([_ice(x.shape[1], x.shape[2], rng) for rng in generators])
    return strength[0] * x + strength[1] * ice


def _ice(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Branched strokes over clouds, float32 (height, width, 3) in [0, 1]."""
    colour, contrast = _FROST[rng.integers(len(_FROST))]
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for _ in range(12 + height * width // 800):
        at = rng.uniform(0, (width, height))
        along = np.exp(1j * rng.uniform(0, 2 * np.pi)) * rng.uniform(4, max(5, width / 6))
        stem = (*at, at[0] + along.real, at[1] + along.imag)
        shade = int(rng.integers(90, 256))
        draw.line(stem, fill=shade)
        for part in (0.3, 0.5, 0.7):
            for turn in (np.pi / 3, -np.pi / 3):
                side = along * (1 - part) / 2 * np.exp(1j * turn)
                foot = (at[0] + part * along.real, at[1] + part * along.imag)
                draw.line((*foot, foot[0] + side.real, foot[1] + side.imag), fill=shade)
    crystals = np.asarray(canvas, np.float32) / 255
    texture = _standardised(_clouds(height, width, 2, rng)) + _standardised(crystals)
    ice: Floats = np.clip(np.asarray(colour, np.float32) + np.float32(contrast / 2**0.5) * texture[..., None], 0, 1)
    return ice


def _standardised(values: NDArray[np.floating]) -> Floats:
    standardised: Floats = ((values - values.mean()) / max(float(values.std()), 1e-6)).astype(np.float32)
    return standardised


def fog(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Clouds added to the image; strength: how much, and how fast their finer detail fades."""
    amount, fading = strength
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    clouds = np.stack([_clouds(x.shape[1], x.shape[2], fading, rng) for rng in generators])[..., None]
    foggy: Floats = (x + amount * clouds) * brightest / (brightest + amount)
    return foggy


def _clouds(height: int, width: int, fading: float, rng: np.random.Generator) -> Floats:
    """A plasma fractal by the diamond-square algorithm, float32 (height, width) in [0, 1]."""
    size = 1 << (max(height, width) - 1).bit_length()
    clouds = np.zeros((size, size))
    step, amplitude = size, 100.0
    while step >= 2:
        half = step // 2
        grid = clouds[::step, ::step]
        corners = grid + np.roll(grid, -1, 0)
        corners = corners + np.roll(corners, -1, 1)
        centres = clouds[half::step, half::step] = _jittered(corners, amplitude, rng)
        above = centres + np.roll(centres, 1, 0) + grid + np.roll(grid, -1, 1)
        clouds[::step, half::step] = _jittered(above, amplitude, rng)
        beside = centres + np.roll(centres, 1, 1) + grid + np.roll(grid, -1, 0)
        clouds[half::step, ::step] = _jittered(beside, amplitude, rng)
        step, amplitude = half, amplitude / fading
    clouds -= clouds.min()
    plasma: Floats = (clouds / max(clouds.max(), 1e-9))[:height, :width].astype(np.float32)
    return plasma


def _jittered(sums: NDArray[np.float64], amplitude: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return sums / 4 + amplitude * rng.uniform(-amplitude, amplitude, sums.shape)


def brightness(x: Floats, strength: Strength, _: Generators) -> Floats:
    """Value of HSV raised; strength: by how much."""
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + np.float32(strength[0]), 1)
    brighter: Floats = np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised)
    return brighter
