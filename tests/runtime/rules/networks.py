"""Tiny classifiers of small images, as functions from pixels to logits, that count their passes."""

from __future__ import annotations

import numpy as np


class Linear:
    """A random linear classifier of pixels in [0, 1]."""

    def __init__(self, shape: tuple[int, ...], classes: int, rng: np.random.Generator, scale: float = 1.0) -> None:
        self.weight = scale * rng.standard_normal((int(np.prod(shape)), classes)).astype(np.float32)
        self.passes: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.passes += list(pixels)
        return pixels.reshape(len(pixels), -1).astype(np.float32) / 255 @ self.weight


class Network(Linear):
    """A random network with one hidden layer."""

    def __init__(self, shape: tuple[int, ...], classes: int, rng: np.random.Generator, hidden: int = 12) -> None:
        super().__init__(shape, hidden, rng)
        self.bias = rng.standard_normal(hidden).astype(np.float32)
        self.head = rng.standard_normal((hidden, classes)).astype(np.float32)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return np.tanh(super().__call__(pixels) + self.bias) @ self.head


class Constant:
    """Gives the next of these classes to each pass."""

    def __init__(self, *classes: int) -> None:
        self.classes = list(classes)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        taken, self.classes = self.classes[: len(pixels)], self.classes[len(pixels) :]
        return np.eye(4, dtype=np.float32)[taken]
