"""Admission control: limits on requests in flight and upload bytes, and thread pools for decoding."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputError
from abnn_serve.media.headers.header import Header
from abnn_serve.media.isolation.budget import SMALL_PIXELS
from abnn_serve.media.isolation.pool import PROCESSES
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.errors import BusyError

T = TypeVar("T")

SMALL_THREADS = 2
MAX_LARGE_QUEUE = 32  # large inputs are decoded one at a time, because each may take several hundred MB


class UploadBytes:
    """Upload bytes of one request, counted against the limit for all requests together."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.count = 0

    def add(self, count: int) -> None:
        """Count `count` more bytes.

        Raises:
            BusyError: the uploads of all requests together would exceed the limit.
        """
        admission = self._admission
        if admission.buffered_bytes + count > admission.max_buffered_bytes:
            raise BusyError(
                f"uploads in memory take {admission.buffered_bytes:,} bytes, the limit is "
                f"{admission.max_buffered_bytes:,}; retry later"
            )
        admission.buffered_bytes += count
        self.count += count


class Admission:
    """Limits on what the worker holds at once; a request that exceeds one is rejected immediately.

    Images whose header proves that decoding is cheap are decoded in threads, everything else in isolated processes.
    Small and large inputs have separate queues, so a small image never waits for a large input.

    Args:
        max_requests: requests in flight; a request counts from the end of its upload.
        max_buffered_bytes: bytes of all uploads in memory, complete or not.
    """

    def __init__(self, max_requests: int, max_buffered_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_buffered_bytes = max_buffered_bytes
        self.in_flight = self.buffered_bytes = 0
        self.left_at = -math.inf  # when the last request ended, in seconds of perf_counter
        self.pending = 0  # passed to the application by the connection, but not yet started
        self._large_queued = 0
        self._small_pool = ThreadPoolExecutor(SMALL_THREADS, "small")
        self._unusual_pool = ThreadPoolExecutor(PROCESSES, "unusual")  # its threads wait for decoding processes
        self._large_pool = ThreadPoolExecutor(1, "large")

    @contextlib.contextmanager
    def upload_bytes(self) -> Iterator[UploadBytes]:
        """Count one request's upload until the block ends."""
        upload = UploadBytes(self)
        try:
            yield upload
        finally:
            self.buffered_bytes -= upload.count

    @property
    def is_full(self) -> bool:
        """Whether requests in flight and pending reach the limit."""
        return self.in_flight + self.pending >= self.max_requests

    def check(self) -> None:
        """Raise BusyError if `admit` would, so that a request can be rejected before its upload is read."""
        if self.in_flight >= self.max_requests:
            raise BusyError(full_message(self.max_requests))

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request as in flight until the block ends.

        Raises:
            BusyError: `max_requests` are in flight.
        """
        self.check()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self.left_at = time.perf_counter()

    async def run_small(self, task: Callable[[], T]) -> T:
        """Run a task that takes milliseconds in the pool for small inputs."""
        return await asyncio.get_running_loop().run_in_executor(self._small_pool, task)

    async def run_large(self, task: Callable[[], T]) -> T:
        """Run a longer task in the pool for large inputs.

        Raises:
            BusyError: MAX_LARGE_QUEUE tasks are queued or running.
        """
        if self._large_queued >= MAX_LARGE_QUEUE:
            raise BusyError(
                f"{MAX_LARGE_QUEUE} large inputs are queued for decoding, which is the limit; retry after 2 s",
                seconds=2,
            )
        self._large_queued += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._large_pool, task)
        finally:
            self._large_queued -= 1

    async def decode(self, predictor: Predictor, data: bytes) -> NDArray[np.uint8]:
        """Decode an encoded image to the model's input, where and when its header says."""
        image = await self.run_small(lambda: predictor.decode_if_plain(data, SMALL_PIXELS))
        if not isinstance(image, Header):
            return image
        if image.pixels > SMALL_PIXELS:
            return await self.run_large(lambda: predictor.decode(data, image))
        return await asyncio.get_running_loop().run_in_executor(self._unusual_pool, predictor.decode, data, image)

    async def decode_all(self, predictor: Predictor, files: list[bytes]) -> list[NDArray[np.uint8] | InputError]:
        """Decode several images; each result, in input order, is the pixels or the error of that image."""
        semaphore = asyncio.Semaphore(SMALL_THREADS)

        async def decode_one(data: bytes) -> NDArray[np.uint8] | InputError:
            async with semaphore:
                try:
                    return await self.decode(predictor, data)
                except InputError as error:
                    return error

        return await asyncio.gather(*map(decode_one, files))

    def close(self) -> None:
        """Shut down the thread pools."""
        self._small_pool.shutdown(wait=False)
        self._unusual_pool.shutdown(wait=False)
        self._large_pool.shutdown(wait=False)


def full_message(limit: int) -> str:
    """What a client reads when the limit on requests in flight rejects it."""
    return f"{limit} requests are in flight, which is the limit; retry after 1 s"
