"""Noise: Gaussian, shot and impulse. Each takes float32 (N, H, W, 3) in [0, 1] and one generator for each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abnn_serve.evaluation.corruptions.constants import Strength
from abnn_serve.evaluation.corruptions.resample import Floats

Generators = Sequence[np.random.Generator]


def gaussian_noise(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Normal noise; strength: its standard deviation."""
    return x + strength[0] * np.stack([rng.standard_normal(x.shape[1:], np.float32) for rng in generators])


def shot_noise(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Poisson noise; strength: photons of a white pixel."""
    counts = [rng.poisson(image * strength[0]) for image, rng in zip(x, generators, strict=True)]
    return np.stack(counts).astype(np.float32) / strength[0]


def impulse_noise(x: Floats, strength: Strength, generators: Generators) -> Floats:
    """Salt and pepper in each channel; strength: share of the values that become 0 or 1."""
    drawn = np.stack([rng.random(x.shape[1:], np.float32) for rng in generators])
    return np.where(drawn < strength[0], (drawn < strength[0] / 2).astype(np.float32), x)
