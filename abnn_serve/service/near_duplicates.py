"""A sign of query attacks: many samples from one caller that differ only a little from each other.

An attack by queries asks for images within a small distance of one image. Each sample is reduced to the mean colours of
a grid of 4 x 4 cells. Two images within Linf 8/255 of a third differ by at most 16 of 255 in every cell, which few
images of a data set do (docs/security.md). It slows an attacker with one key; several keys, larger changes, or other
images in between avoid it.
"""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["count", "label-only"]

CALLERS = 256  # the least recent is forgotten; each takes 60 kB
WINDOW = 512  # samples of each caller
SECONDS = 3600.0
ALARM = 32  # resembling samples in the window
TOLERANCE = 16  # of 255
_GRID = 4
_SIDE = 32  # pixels a side that are read of larger samples


def sketch(sample: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Mean colours of a grid over a sample, uint8 ([T,] H, W, 3), as int16 (48,); of clips, of the mean frame."""
    height, width = sample.shape[-3:-1]
    thin = sample[..., :: max(1, height // _SIDE), :: max(1, width // _SIDE), :]
    image = thin.mean(axis=0) if thin.ndim == 4 else thin
    rows, columns, scale = _grid(image.shape[0], image.shape[1])
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=0, dtype=np.float32), columns, axis=1)
    sums *= scale
    return np.rint(sums, out=sums).astype(np.int16).ravel()


@functools.lru_cache(maxsize=64)
def _grid(height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """First row and column of each cell, and one over its pixels, float32 (4, 4, 1)."""
    rows, columns = (np.linspace(0, side, _GRID, endpoint=False).astype(np.intp) for side in (height, width))
    heights, widths = np.diff([*rows, height]), np.diff([*columns, width])
    pixels = np.outer(np.maximum(heights, 1), np.maximum(widths, 1))  # a side below 4 pixels has cells of one
    return rows, columns, (1 / pixels).astype(np.float32)[..., None]


class _Window:
    """The last samples of one caller."""

    def __init__(self) -> None:
        self.sketches = np.zeros((_GRID * _GRID * 3, WINDOW), np.int16)  # a column for each: faster than rows
        self.times = np.full(WINDOW, -np.inf)
        self.identities = np.zeros(WINDOW, np.int64)
        self.next = 0


class NearDuplicates:
    """Counts samples that resemble earlier ones of the same caller; an identical sample reveals nothing and is ignored.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def observe(self, caller: str, sample: NDArray[np.uint8]) -> int:
        """Remember a sample of the model's input shape.

        Returns:
            Number of other samples of this caller in the window that it resembles.
        """
        if (window := self._windows.get(caller)) is None:
            window = self._windows[caller] = _Window()
        self._windows.move_to_end(caller)
        if len(self._windows) > CALLERS:
            self._windows.popitem(last=False)
        now, values, identity = self._clock(), sketch(sample), hash(sample.tobytes())
        near = np.abs(window.sketches - values[:, None]).max(axis=0) <= TOLERANCE
        near &= window.times > now - SECONDS
        similar = near.nonzero()[0]
        same = similar[window.identities[similar] == identity]
        if len(same):
            window.times[same] = now
        else:
            window.sketches[:, window.next] = values
            window.times[window.next], window.identities[window.next] = now, identity
            window.next = (window.next + 1) % WINDOW
        return len(similar) - len(same)
