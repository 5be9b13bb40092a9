"""The mask set of double masking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import ConfigError


def mask_set(size: tuple[int, int], patch: tuple[int, int], k: int) -> NDArray[np.bool_]:
    """Masks of which at least one covers every patch (Xiang, Mahloujifar & Mittal, USENIX Security 2022, R-covering).

    Along an axis of n pixels, with a patch of p and a stride s = ceil((n - p + 1) / k), a mask has m = p + s - 1 pixels
    and the masks start at 0, s, 2s, ..., the last at n - m. A patch that starts at t is inside the mask that starts at
    a iff a <= t <= a + m - p = a + s - 1, so k masks with starts s apart cover every t from 0 to n - p.

    Args:
        size: height and width of the image in pixels.
        patch: height and width of the largest patch in pixels.
        k: masks along each axis, at least 2.

    Returns:
        bool (M, height, width), True where a mask hides a pixel; M is k * k, or less where masks would be equal.
    """
    rows, columns = (
        _intervals(name, length, side, k) for name, length, side in zip(("height", "width"), size, patch, strict=True)
    )
    hidden: NDArray[np.bool_] = rows[:, None, :, None] & columns[None, :, None, :]
    return hidden.reshape(-1, *size)


def _intervals(axis: str, length: int, side: int, k: int) -> NDArray[np.bool_]:
    if not 1 <= side <= length:
        raise ConfigError(f"the patch's {axis} is {side} pixels, expected 1 to the image's {length}")
    stride = -(-(length - side + 1) // k)
    mask = side + stride - 1
    if k < 2 or mask >= length:
        raise ConfigError(
            f"k={k} makes masks of the image's whole {axis} for a patch of {side} pixels; use a larger k or a "
            "smaller patch"
        )
    starts = sorted({min(i * stride, length - mask) for i in range(k)})
    at = np.arange(length) - np.array(starts)[:, None]
    inside: NDArray[np.bool_] = (at >= 0) & (at < mask)
    return inside
