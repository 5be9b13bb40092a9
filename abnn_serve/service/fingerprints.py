"""Fingerprints of samples: a coarse sketch, which similar samples nearly share, and a hash of all pixels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 4  # cells a side
_SIDE = 32  # pixels a side that are read of larger samples
SKETCH = 3 * GRID * GRID  # numbers of a sketch

Inputs = Sequence[Sequence[NDArray[np.uint8]]]  # of each input its samples: several are the clips of one video


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What is remembered of one input: its sketch, int16 (48,), and Python's hash of all its pixels.

    Unless PYTHONHASHSEED sets it, that hash has a random key in every process: no client can make two inputs with the
    same one.
    """

    sketch: NDArray[np.int16]
    identity: int

    @classmethod
    def of(cls, samples: Sequence[NDArray[np.uint8]]) -> Fingerprint:
        """The fingerprint of one sample, or of all clips of one video together."""
        sketches = [sketch(sample) for sample in samples]
        mean = sketches[0] if len(sketches) == 1 else np.rint(np.mean(sketches, axis=0)).astype(np.int16)
        return cls(mean, hash(tuple(sample.tobytes() for sample in samples)))


def sketch(sample: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Mean colours of a grid over a sample, uint8 ([T,] H, W, 3), as int16 (48,); of clips, of the mean frame."""
    height, width = sample.shape[-3:-1]
    thin = sample[..., :: max(1, height // _SIDE), :: max(1, width // _SIDE), :]
    image = (thin.mean(axis=0) if thin.ndim == 4 else thin).astype(np.float32)
    height, width, channels = image.shape
    rows = _cells(height) @ image.reshape(height, width * channels)
    return np.rint(_cells(width) @ rows.reshape(GRID, width, channels)).astype(np.int16).ravel()


@functools.lru_cache(maxsize=64)
def _cells(side: int) -> NDArray[np.float32]:
    """Weights of the pixels of a side in the mean of each cell, float32 (4, side); cells of a short side share them."""
    first = np.linspace(0, side, GRID, endpoint=False).astype(np.intp)
    pixels, last = np.arange(side), np.maximum(np.append(first[1:], side), first + 1)
    inside = (first[:, None] <= pixels) & (pixels < last[:, None])
    weights: NDArray[np.float32] = (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
