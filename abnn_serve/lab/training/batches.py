"""From uint8 pixels to network inputs, with shuffling and augmentation for training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.augmentation import augment, augment_on_device, draw
from abnn_serve.lab.training.recipe import Recipe

_SHARE = 0.25  # of a GPU's free memory that a data set may take


@dataclass(frozen=True, slots=True)
class HeldData:
    """A data set on a device.

    Attributes:
        images: uint8 (N, [T,] H, W, 3).
        labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor


def hold(data: ImageData, device: torch.device) -> HeldData | None:
    """Copy a data set to a GPU that has the memory for it; None for others and for CPUs."""
    if device.type != "cuda" or data.images.nbytes > _SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    return copy_to(data, device)


def copy_to(data: ImageData, device: torch.device) -> HeldData:
    """Copy a data set to a device."""
    return HeldData(*(torch.from_numpy(array).to(device) for array in (data.images, data.labels)))


def training_batches(
    data: ImageData, recipe: Recipe, rng: np.random.Generator, device: torch.device, held: HeldData | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches of images and labels; an incomplete last batch is dropped.

    If the device holds the data, it augments there, by the same random choices.
    """
    if held is not None:
        yield from batches_on_device(data, held, recipe, rng)
        return
    for chosen in _shuffled(data, recipe, rng):
        images = data.images[chosen]
        pixels = augment(images, draw(recipe, rng, images.shape, mirrors=data.mirrors), recipe)
        yield to_input(pixels, device), torch.from_numpy(data.labels[chosen]).to(device)


def batches_on_device(
    data: ImageData, held: HeldData, recipe: Recipe, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `training_batches`: all choices are copied to the device before the first batch, so that no step waits."""
    device, shape = held.images.device, (recipe.batch_size, *data.images.shape[1:])
    steps = [(chosen, draw(recipe, rng, shape, mirrors=data.mirrors)) for chosen in _shuffled(data, recipe, rng)]
    moved = [(torch.from_numpy(chosen).to(device), draws.to(device)) for chosen, draws in steps]
    for chosen, draws in moved:
        yield as_input(augment_on_device(held.images, chosen, draws, recipe)), held.labels[chosen]


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
