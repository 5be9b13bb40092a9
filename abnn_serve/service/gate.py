"""How much is done at once: bounded requests, bounded decoding, one inference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from abnn_serve.service.errors import BusyError

T = TypeVar("T")

MAX_REQUESTS = 64
MAX_DECODES = 2  # a picture at the pixel limit takes several hundred MB while it is decoded


class Gate:
    """Admits MAX_REQUESTS at a time; past them BusyError at once, so that nothing queues without bound."""

    def __init__(self) -> None:
        self._inside = 0

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request in for as long as the block lasts.

        Raises:
            BusyError: MAX_REQUESTS are inside.
        """
        if self._inside >= MAX_REQUESTS:
            raise BusyError(f"{MAX_REQUESTS} requests are being answered, which is the limit; try again in a second")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def decode(self, function: Callable[[bytes], T], data: bytes) -> T:
        """Run in a thread, at most MAX_DECODES at a time."""
        return await anyio.to_thread.run_sync(function, data, limiter=self._decodes)

    async def infer(self, function: Callable[[], T]) -> T:
        """Run in a thread, one at a time: an inference uses every thread it was given."""
        return await anyio.to_thread.run_sync(function, limiter=self._inferences)

    @cached_property
    def _decodes(self) -> CapacityLimiter:
        return CapacityLimiter(MAX_DECODES)

    @cached_property
    def _inferences(self) -> CapacityLimiter:
        return CapacityLimiter(1)
