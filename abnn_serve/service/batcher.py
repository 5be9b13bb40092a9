"""Samples of concurrent requests in one run of the session, in turn, so that no request waits for another's bulk."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from abnn_serve.service.errors import BusyError, DeadlineError

RUN_SECONDS = 1.0
_MARGIN = 2.0  # a line as long as the deadline would answer nobody, once runs take a little longer than they did

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request's logits, float32 (n, classes), and where its time went.

    Attributes:
        queue_seconds: in line.
        compute_seconds: in the session, together with others.
        batch: samples in the largest run that one of its samples was in.
    """

    logits: NDArray[np.float32]
    queue_seconds: float
    compute_seconds: float
    batch: int


@dataclass(slots=True, eq=False)
class _Request:
    samples: Sequence[NDArray[np.uint8]]
    done: asyncio.Future[None]
    arrived: float
    logits: list[NDArray[np.float32] | None]
    taken: int = 0
    missing: int = field(init=False)
    compute_seconds: float = 0.0
    batch: int = 0

    def __post_init__(self) -> None:
        self.missing = len(self.samples)


class Batcher:
    """The line before one session.

    A run starts as soon as the session is free, with whatever waits, up to `max_batch` and to what takes RUN_SECONDS by
    the last runs: nobody waits for company, nor long for who came before.

    Args:
        run: uint8 (N, ...) to logits, float32 (N, classes).
        executor: of one thread; shared by all sessions of the process.
        max_batch: samples in a run.
        max_queue: samples in line.
        seconds: that one sample takes, as far as is known before the first.
        on_batch: told the samples and the seconds of every run.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        *,
        max_batch: int,
        max_queue: int,
        seconds: float = 0.0,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self.max_batch = max_batch
        self.waiting = 0
        self._run = run
        self._executor = executor
        self._max_queue = max_queue
        self._seconds = seconds
        self._on_batch = on_batch
        self._line: deque[_Request] = deque()
        self._worker: asyncio.Task[None] | None = None

    def admit(self, samples: int, seconds_left: float) -> None:
        """Raise BusyError where `samples` more would not fit, or would hardly be done in `seconds_left`.

        Where nobody is before them they are always taken: only a run can tell that the session is no longer slow.
        """
        expected = (self.waiting * _MARGIN + samples) * self._seconds
        if self.waiting + samples > self._max_queue:
            raise BusyError(f"{self.waiting} samples are in line, the limit is {self._max_queue}", seconds=expected)
        if self._busy and expected > seconds_left:
            raise BusyError(
                f"the line may take {expected:.1f} seconds, {seconds_left:.1f} are left",
                seconds=expected - seconds_left,
            )

    @property
    def _busy(self) -> bool:
        return self._worker is not None and not self._worker.done()

    async def submit(self, samples: Sequence[NDArray[np.uint8]], deadline: float) -> Answered:
        """Logits of checked samples, all of the session's dtype and shape; `deadline` is a time of the event loop.

        Raises:
            BusyError: the line is full, or too long for the deadline.
            DeadlineError: the deadline passed; what was not yet run is not run.
        """
        loop = asyncio.get_running_loop()
        self.admit(len(samples), deadline - loop.time())
        request = _Request(samples, loop.create_future(), time.perf_counter(), [None] * len(samples))
        self._line.append(request)
        self.waiting += len(samples)
        if not self._busy:
            self._worker = loop.create_task(self._work())
        try:
            async with asyncio.timeout_at(deadline):
                await request.done
        except TimeoutError:
            raise DeadlineError("the answer was not ready before the deadline; try again") from None
        finally:
            self._forget(request)
        whole = time.perf_counter() - request.arrived
        return Answered(
            logits=np.stack([row for row in request.logits if row is not None]),
            queue_seconds=max(0.0, whole - request.compute_seconds),
            compute_seconds=request.compute_seconds,
            batch=request.batch,
        )

    def _forget(self, request: _Request) -> None:
        """Take what was not run out of the count; the line drops the request when its turn comes."""
        self.waiting -= len(request.samples) - request.taken
        request.taken = len(request.samples)

    def _take(self) -> list[tuple[_Request, int]]:
        """The next run: one sample of each request in turn."""
        chosen: list[tuple[_Request, int]] = []
        most = max(1, min(self.max_batch, int(RUN_SECONDS / max(self._seconds, 1e-6))))
        while self._line and len(chosen) < most:
            request = self._line.popleft()
            if request.taken == len(request.samples):
                continue
            chosen.append((request, request.taken))
            request.taken += 1
            self.waiting -= 1
            if request.taken < len(request.samples):
                self._line.append(request)
        return chosen

    async def _work(self) -> None:
        while chosen := self._take():
            samples = [request.samples[index] for request, index in chosen]
            try:
                logits, seconds = await self._timed(samples)
            except Exception as error:  # whatever the session raises belongs to whoever caused it, and to nobody else
                await self._one_by_one(chosen, error)
                continue
            self._seconds += 0.2 * (seconds / len(chosen) - self._seconds)
            self._on_batch(len(chosen), seconds)
            for row, (request, index) in zip(logits, chosen, strict=True):
                self._answer(request, index, row, len(chosen), seconds)

    async def _one_by_one(self, chosen: list[tuple[_Request, int]], error: Exception) -> None:
        for request, index in chosen:
            try:
                logits, seconds = await self._timed([request.samples[index]]) if len(chosen) > 1 else _again(error)
            except Exception as own:
                if not request.done.done():
                    request.done.set_exception(own)
                continue
            self._answer(request, index, logits[0], 1, seconds)

    async def _timed(self, samples: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], float]:
        def run() -> tuple[NDArray[np.float32], float]:
            started = time.perf_counter()
            return self._run(np.stack(samples)), time.perf_counter() - started

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    @staticmethod
    def _answer(request: _Request, index: int, row: NDArray[np.float32], batch: int, seconds: float) -> None:
        request.logits[index] = row
        request.missing -= 1
        request.batch = max(request.batch, batch)
        request.compute_seconds += seconds
        if request.missing == 0 and not request.done.done():
            request.done.set_result(None)


def _again(error: Exception) -> tuple[NDArray[np.float32], float]:
    raise error
