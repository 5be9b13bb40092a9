"""From uint8 pixels to network inputs, with shuffling and augmentation for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.augmentation import augment, augment_on_device, draw
from abnn_serve.lab.training.recipe import Recipe

_SHARE = 0.25  # of a GPU's free memory that a data set may take


def training_batches(
    data: ImageData, recipe: Recipe, rng: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches of images and labels; an incomplete last batch is dropped.

    A GPU that has the memory holds the data set during the epoch and augments there, by the same random choices.
    """
    if device.type == "cuda" and data.images.nbytes < _SHARE * torch.cuda.mem_get_info(device)[0]:
        yield from batches_on_device(data, recipe, rng, device)
        return
    for chosen in _shuffled(data, recipe, rng):
        images = data.images[chosen]
        pixels = augment(images, draw(recipe, rng, images.shape, mirrors=data.mirrors), recipe)
        yield to_input(pixels, device), torch.from_numpy(data.labels[chosen]).to(device)


def batches_on_device(
    data: ImageData, recipe: Recipe, rng: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `training_batches`: everything is copied to the device before the first batch, so that no step waits."""
    shape = (recipe.batch_size, *data.images.shape[1:])
    steps = [(chosen, draw(recipe, rng, shape, mirrors=data.mirrors)) for chosen in _shuffled(data, recipe, rng)]
    moved = [(torch.from_numpy(chosen).to(device), draws.to(device)) for chosen, draws in steps]
    images, labels = (torch.from_numpy(array).to(device) for array in (data.images, data.labels))
    for chosen, draws in moved:
        yield as_input(augment_on_device(images, chosen, draws, recipe)), labels[chosen]


def _shuffled(data: ImageData, recipe: Recipe, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The indices of each batch."""
    order = rng.permutation(len(data))
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        yield order[start : start + recipe.batch_size]


def to_input(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Convert uint8 (N, [T,] H, W, 3) to float32 (N, 3, [T,] H, W) in [0, 1], channels last in memory."""
    return as_input(torch.from_numpy(np.ascontiguousarray(images)).to(device))


def as_input(images: Tensor) -> Tensor:
    """As `to_input`, of a tensor on any device."""
    return images.movedim(-1, 1).float().div_(255)
