"""Pixels in memory to a network's input: plain, and shuffled and augmented for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.recipes import Recipe


def training_batches(
    data: ImageData, recipe: Recipe, rng: np.random.Generator, place: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented batches; the images that do not fill a last batch wait for another epoch's order."""
    order = rng.permutation(len(data))
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        pixels = _augment(data.images[chosen], recipe, rng, mirrors=data.mirrors)
        yield to_input(pixels, place), torch.from_numpy(data.labels[chosen]).to(place)


def _augment(
    images: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator, *, mirrors: bool
) -> NDArray[np.uint8]:
    """The same for every frame of a clip."""
    pad, count, (height, width) = recipe.crop_padding, len(images), images.shape[-3:-1]
    if pad:
        around = [(0, 0)] * (images.ndim - 3) + [(pad, pad), (pad, pad), (0, 0)]
        padded = np.pad(images, around, mode="reflect")
        shifts = rng.integers(0, 2 * pad + 1, size=(count, 2))
        images = np.stack([padded[i, ..., y : y + height, x : x + width, :] for i, (y, x) in enumerate(shifts)])
    if recipe.flip and mirrors:
        mirrored = rng.random(count) < 0.5
        images[mirrored] = images[mirrored][..., ::-1, :]
    if recipe.cutout:
        rows, columns = (
            np.abs(rng.integers(0, side, size=(count, 1)) - np.arange(side) + 0.5) < recipe.cutout / 2
            for side in (height, width)
        )
        hidden = (rows[:, :, None] & columns[:, None]).reshape(count, *[1] * (images.ndim - 4), height, width)
        images[np.broadcast_to(hidden, images.shape[:-1])] = 128
    return _relit(images, recipe.photometric, rng) if recipe.photometric else images


def _relit(images: NDArray[np.uint8], most: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image's brightness and contrast multiplied by factors drawn from [1 - most, 1 + most]."""
    each = (len(images), *[1] * (images.ndim - 1))
    brightness, contrast = (rng.uniform(1 - most, 1 + most, each).astype(np.float32) for _ in range(2))
    mean = images.mean(axis=tuple(range(1, images.ndim)), keepdims=True, dtype=np.float32)
    changed = (images - mean) * (contrast * brightness) + mean * brightness
    relit: NDArray[np.uint8] = changed.round().clip(0, 255).astype(np.uint8)
    return relit


def to_input(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 (N, [T,] H, W, 3) to a network's input: float32 (N, 3, [T,] H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).movedim(-1, 1).float().div_(255)
