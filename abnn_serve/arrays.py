"""What training, export and serving all do with arrays: cut them into batches, turn logits into probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def batch_slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` samples that cover `count` samples in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (..., classes) to probabilities over the last axis."""
    weights: NDArray[np.float64] = logits.astype(np.float64)
    weights -= np.maximum.reduce(weights, axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= np.add.reduce(weights, axis=-1, keepdims=True)
    return weights
