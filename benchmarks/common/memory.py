"""Resident memory of other processes while a block runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import psutil


@contextlib.contextmanager
def resident_bytes(processes: Callable[[], Iterable[psutil.Process]], interval: float) -> Iterator[list[int]]:
    """Sample the total resident bytes of `processes()` every `interval` seconds until the block ends."""
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(interval):
            total = 0
            for process in processes():
                with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                    total += process.memory_info().rss
            samples.append(total)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
