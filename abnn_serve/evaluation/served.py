"""A served model as a classifier that can only be queried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ServedLogits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # uint8 (N, [T,] H, W, 3) to logits (N, classes)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A served model as its clients see it: pixels are rounded to uint8, and gradients are unavailable."""

    logits: ServedLogits

    def __call__(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W) in [0, 1] to logits (N, classes)."""
        return torch.from_numpy(self.logits(to_uint8(x))).to(x.device)


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Float (N, 3, [T,] H, W) in [0, 1] to the nearest uint8 (N, [T,] H, W, 3)."""
    pixels: NDArray[np.uint8] = (x.detach() * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    return pixels
