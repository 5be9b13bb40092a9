"""How much is inside at once: requests, bytes of uploads, and decoding in two lanes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputError
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.errors import BusyError

T = TypeVar("T")

QUICK_THREADS = 2
QUICK_PIXELS = 2_000_000  # decoded in some ten milliseconds
MAX_LARGE = 32  # in line for the one thread that decodes larger ones, of several hundred MB each


class Account:
    """Bytes that one request holds in memory."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.held = 0

    def grow(self, count: int) -> None:
        """Count `count` bytes more; BusyError past the limit of all requests together."""
        if self._gate.buffered + count > self._gate.max_buffered:
            raise BusyError(f"uploads of {self._gate.buffered:,} bytes are in memory, which is about the limit")
        self._gate.buffered += count
        self.held += count


class Gate:
    """Admits what fits and refuses the rest at once, so that nothing grows without bound.

    Work in a thread is in one of two lanes: quick, or large (one at a time), so that a picture of thumbnail size never
    waits for one of forty megapixels, nor for a clip.

    Args:
        max_inside: requests being answered, from the end of their upload.
        max_buffered: bytes of uploads, complete or not.
    """

    def __init__(self, max_inside: int, max_buffered: int) -> None:
        self.max_inside = max_inside
        self.max_buffered = max_buffered
        self.inside = self.buffered = 0
        self.entering = 0  # let in by the connection and not yet begun
        self._large_waiting = 0
        self._quick = ThreadPoolExecutor(QUICK_THREADS, "quick")
        self._large = ThreadPoolExecutor(1, "large")

    @contextlib.contextmanager
    def account(self) -> Iterator[Account]:
        """Count the bytes of one request for as long as the block lasts."""
        account = Account(self)
        try:
            yield account
        finally:
            self.buffered -= account.held

    @property
    def full(self) -> bool:
        """As many are inside, or on their way, as may be."""
        return self.inside + self.entering >= self.max_inside

    def check(self) -> None:
        """Raise BusyError where `admitted` would: before an upload is read."""
        if self.inside >= self.max_inside:
            raise BusyError(f"{self.inside} requests are being answered, which is the limit; try again in a second")

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request in for as long as the block lasts; BusyError where `max_inside` are."""
        self.check()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def quick(self, work: Callable[[], T]) -> T:
        """Run in a thread for what takes milliseconds."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, work)

    async def large(self, work: Callable[[], T]) -> T:
        """Run in the thread for what takes longer; BusyError where MAX_LARGE are in line."""
        if self._large_waiting >= MAX_LARGE:
            raise BusyError(f"{MAX_LARGE} large inputs are in line, which is the limit", seconds=2)
        self._large_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._large, work)
        finally:
            self._large_waiting -= 1

    async def decode(self, predictor: Predictor, data: bytes) -> NDArray[np.uint8]:
        """Encoded image bytes to the model's input, in the lane that the picture's declared size chooses."""
        quick = await self.quick(lambda: predictor.decode_if_small(data, QUICK_PIXELS))
        return quick if quick is not None else await self.large(lambda: predictor.decode(data))

    async def decode_all(self, predictor: Predictor, parts: list[bytes]) -> list[NDArray[np.uint8] | InputError]:
        """As `decode`, for many: an outcome each, in order; one that fails leaves the others alone."""
        turns = asyncio.Semaphore(QUICK_THREADS)

        async def one(data: bytes) -> NDArray[np.uint8] | InputError:
            async with turns:
                try:
                    return await self.decode(predictor, data)
                except InputError as error:
                    return error

        return await asyncio.gather(*map(one, parts))

    def close(self) -> None:
        """Let the threads go."""
        self._quick.shutdown(wait=False)
        self._large.shutdown(wait=False)
