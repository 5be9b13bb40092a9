"""From uint8 pixels to network inputs, with shuffling and augmentation for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.recipe import Recipe


def training_batches(
    data: ImageData, recipe: Recipe, rng: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches of images and labels; an incomplete last batch is dropped."""
    order = rng.permutation(len(data))
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        pixels = _augment(data.images[chosen], recipe, rng, mirrors=data.mirrors)
        yield to_input(pixels, device), torch.from_numpy(data.labels[chosen]).to(device)


def _augment(
    images: NDArray[np.uint8], recipe: Recipe, rng: np.random.Generator, *, mirrors: bool
) -> NDArray[np.uint8]:
    """Crop, flip, cut out and relight; every frame of a clip gets the same augmentation."""
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
    return _relight(images, recipe.photometric, rng) if recipe.photometric else images


def _relight(images: NDArray[np.uint8], limit: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Multiply each image's brightness and contrast by factors drawn from [1 - limit, 1 + limit]."""
    shape = (len(images), *[1] * (images.ndim - 1))
    brightness, contrast = (rng.uniform(1 - limit, 1 + limit, shape).astype(np.float32) for _ in range(2))
    mean = images.mean(axis=tuple(range(1, images.ndim)), keepdims=True, dtype=np.float32)
    relit = (images - mean) * (contrast * brightness) + mean * brightness
    pixels: NDArray[np.uint8] = relit.round().clip(0, 255).astype(np.uint8)
    return pixels


def to_input(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Convert uint8 (N, [T,] H, W, 3) to float32 (N, 3, [T,] H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).movedim(-1, 1).float().div_(255)
