"""A GPU for each worker process: workers of one service take different GPUs as long as there are enough."""

from __future__ import annotations

import os
import tempfile
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from abnn_serve.errors import ConfigError

_held: list[FileLock] = []  # until this process ends, however it ends


def take_gpu(gpus: int, folder: Path | None = None) -> int:
    """The number of a GPU that fewest workers of this service use.

    Args:
        gpus: number of GPUs, at least 1.
        folder: of the lock files, the same for all workers; None takes one named by the parent process.

    Raises:
        ConfigError: the folder belongs to another user.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"abnn-gpus-{os.getppid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise ConfigError(f"{folder} belongs to another user, expected this one; remove it, or set ABNN_GPU")
    for place in count():
        lock = FileLock(folder / f"{place}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held.append(lock)
        return place % gpus
    raise AssertionError  # count() does not end
