"""The random choices of augmentation, and their effect on a batch in numpy or, with equal results, on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abnn_serve.lab.training.recipe import Recipe

_HIDDEN = 128  # pixel value of cutout


@dataclass(frozen=True, slots=True)
class Draws:
    """Random choices for a batch of n samples, as arrays or as tensors; None leaves a step out.

    Attributes:
        shifts: corner of the crop in the padded image, int64 (n, 2), each from 0 to twice the padding.
        mirrored: bool (n,).
        rows, columns: centre of the cutout, int64 (n, 1).
        brightness, contrast: factors, float32 (n, 1, ...).
    """

    shifts: Any = None
    mirrored: Any = None
    rows: Any = None
    columns: Any = None
    brightness: Any = None
    contrast: Any = None

    def to(self, device: torch.device) -> Draws:
        """Copy arrays to tensors on a device."""
        values = (getattr(self, field.name) for field in fields(self))
        return Draws(*(None if value is None else torch.from_numpy(value).to(device) for value in values))


def draw(recipe: Recipe, rng: np.random.Generator, shape: tuple[int, ...], *, mirrors: bool) -> Draws:
    """Draw for a batch of shape (n, [T,] H, W, 3); every frame of a clip gets the same augmentation."""
    count, (height, width) = shape[0], shape[-3:-1]
    draws: dict[str, NDArray[Any]] = {}
    if recipe.crop_padding:
        draws["shifts"] = rng.integers(0, 2 * recipe.crop_padding + 1, size=(count, 2))
    if recipe.flip and mirrors:
        draws["mirrored"] = rng.random(count) < 0.5
    if recipe.cutout:
        draws["rows"], draws["columns"] = (rng.integers(0, side, size=(count, 1)) for side in (height, width))
    if recipe.photometric:
        limit, size = recipe.photometric, (count, *[1] * (len(shape) - 1))
        draws["brightness"], draws["contrast"] = (
            rng.uniform(1 - limit, 1 + limit, size).astype(np.float32) for _ in range(2)
        )
    return Draws(**draws)


def augment(images: NDArray[np.uint8], draws: Draws, recipe: Recipe) -> NDArray[np.uint8]:
    """Crop, flip, cut out and relight images, uint8 (n, [T,] H, W, 3)."""
    pad, count, (height, width) = recipe.crop_padding, len(images), images.shape[-3:-1]
    if draws.shifts is not None:
        around = [(0, 0)] * (images.ndim - 3) + [(pad, pad), (pad, pad), (0, 0)]
        padded = np.pad(images, around, mode="reflect")
        images = np.stack([padded[i, ..., y : y + height, x : x + width, :] for i, (y, x) in enumerate(draws.shifts)])
    if draws.mirrored is not None:
        images[draws.mirrored] = images[draws.mirrored][..., ::-1, :]
    if draws.rows is not None:
        rows, columns = (
            np.abs(centre - np.arange(side) + 0.5) < recipe.cutout / 2
            for centre, side in ((draws.rows, height), (draws.columns, width))
        )
        hidden = (rows[:, :, None] & columns[:, None]).reshape(count, *[1] * (images.ndim - 4), height, width)
        images[np.broadcast_to(hidden, images.shape[:-1])] = _HIDDEN
    if draws.brightness is None:
        return images
    mean = images.mean(axis=tuple(range(1, images.ndim)), keepdims=True, dtype=np.float32)
    relit = (images - mean) * (draws.contrast * draws.brightness) + mean * draws.brightness
    pixels: NDArray[np.uint8] = relit.round().clip(0, 255).astype(np.uint8)
    return pixels


def augment_on_device(data: Tensor, chosen: Tensor, draws: Draws, recipe: Recipe) -> Tensor:
    """As `augment`, for samples `chosen`, int64 (n,), of data on a device, uint8 (N, [T,] H, W, 3); without waiting.

    One gather crops and flips. Relighting may differ from `augment` by one level, where sums round differently.
    """
    height, width = data.shape[-3:-1]
    shape = (len(chosen), *[1] * (data.dim() - 4))
    rows = torch.arange(height, device=data.device).expand(len(chosen), height)
    columns = torch.arange(width, device=data.device).expand(len(chosen), width)
    if draws.mirrored is not None:
        columns = torch.where(draws.mirrored[:, None], columns.flip(1), columns)
    if draws.shifts is not None:
        rows = _reflected(rows + draws.shifts[:, :1] - recipe.crop_padding, height)
        columns = _reflected(columns + draws.shifts[:, 1:] - recipe.crop_padding, width)
    index = [chosen.view(-1, *[1] * (data.dim() - 2))]
    if data.dim() == 5:
        index.append(torch.arange(data.shape[1], device=data.device).view(1, -1, 1, 1))
    index += [rows.view(*shape, height, 1), columns.view(*shape, 1, width)]
    images = data[tuple(index)]
    if draws.rows is not None:
        near = [
            (centre - torch.arange(side, device=data.device) + 0.5).abs() < recipe.cutout / 2
            for centre, side in ((draws.rows, height), (draws.columns, width))
        ]
        hidden = near[0].view(*shape, height, 1, 1) & near[1].view(*shape, 1, width, 1)
        images = images.masked_fill(hidden, _HIDDEN)
    if draws.brightness is None:
        return images
    pixels = images.float()
    mean = pixels.mean(dim=tuple(range(1, images.dim())), keepdim=True)
    relit: Tensor = (pixels - mean) * (draws.contrast * draws.brightness) + mean * draws.brightness
    return relit.round().clamp(0, 255).to(torch.uint8)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices outside of an axis, reflected at its first and last element."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)
