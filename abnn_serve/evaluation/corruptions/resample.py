"""What several corruptions share: Gaussian and motion blur, zooming, and sampling at fractional positions."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def gaussian_blur(x: Floats, sigma: float, *, truncate: float = 4.0, reflect: bool = False) -> Floats:
    """Blur float32 (..., H, W, C) along H and W; `reflect` mirrors the border, which is otherwise repeated."""
    rows, columns = (_gaussian_matrix(x.shape[axis], sigma, truncate, reflect) for axis in (-3, -2))
    blurred: Floats = np.einsum("ih,jw,...hwc->...ijc", rows, columns, x, optimize=True)
    return blurred


@lru_cache(maxsize=64)
def _gaussian_matrix(size: int, sigma: float, truncate: float, reflect: bool) -> Floats:  # noqa: FBT001
    """The blur of `size` values as a matrix, float32 (size, size)."""
    radius = int(truncate * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / max(sigma, 1e-9)) ** 2)
    source = np.arange(size)[:, None] + taps
    if reflect:
        source %= 2 * size
        source = np.where(source < size, source, 2 * size - 1 - source)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source.clip(0, size - 1)), weights / weights.sum())
    return matrix.astype(np.float32)


def motion_blur(x: Floats, radius: float, sigma: float, angle: float) -> Floats:
    """Blur float32 (H, W, C) along a line at `angle` degrees, with half a Gaussian, as ImageMagick does."""
    width = 2 * math.ceil(radius) + 1
    weights = np.exp(-0.5 * (np.arange(width) / sigma) ** 2)
    weights /= weights.sum()
    down, across = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    height, length = x.shape[:2]
    blurred = np.zeros_like(x)
    for step, weight in enumerate(weights.astype(np.float32)):
        rows = (np.arange(height) + math.ceil(step * across - 0.5)).clip(0, height - 1)
        columns = (np.arange(length) + math.ceil(step * down - 0.5)).clip(0, length - 1)
        blurred += weight * x[rows[:, None], columns]
    return blurred


def clipped_zoom(x: Floats, factor: float) -> Floats:
    """Enlarge the centre of float32 (N, H, W, C) by `factor` >= 1 to the size of the whole."""
    height, width = x.shape[1:3]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = torch.from_numpy(x[:, top : top + rows, left : left + columns]).movedim(-1, 1)
    size = [max(round(rows * factor), height), max(round(columns * factor), width)]
    zoomed = torch.nn.functional.interpolate(part, size, mode="bilinear", align_corners=True).movedim(1, -1).numpy()
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    whole: Floats = zoomed[:, top : top + height, left : left + width]
    return whole


def sample_at(x: Floats, rows: NDArray[np.floating], columns: NDArray[np.floating]) -> Floats:
    """Bilinear values of float32 (H, W, C) at fractional positions, each (H, W); the border is mirrored."""
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, across = (rows - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32)
    rows_at = [_mirrored(top + i, x.shape[0]) for i in (0, 1)]
    columns_at = [_mirrored(left + i, x.shape[1]) for i in (0, 1)]
    upper, lower = (x[row, columns_at[0]] * (1 - across) + x[row, columns_at[1]] * across for row in rows_at)
    sampled: Floats = upper * (1 - down) + lower * down
    return sampled


def _mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    index = index % max(2 * size - 2, 1)
    return np.where(index < size, index, 2 * size - 2 - index)
