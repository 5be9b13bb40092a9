"""Room for pixels: in memory, or on disk where they are many."""

from __future__ import annotations

import tempfile

import numpy as np
from numpy.typing import NDArray

_IN_MEMORY = 1 << 31  # bytes


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An empty uint8 array; beyond 2 GiB a file in the temporary folder, gone with the process."""
    if int(np.prod(shape, dtype=np.int64)) <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="abnn-") as file:  # unlinked at once; the map keeps it
        return np.memmap(file, np.uint8, "w+", shape=shape)
