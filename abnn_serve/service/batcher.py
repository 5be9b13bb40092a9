"""Dynamic batching: runs the session on samples of concurrent requests, taking one sample of each request in turn."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.service.errors import BusyError, DeadlineError

RUN_SECONDS = 1.0
_QUEUE_FACTOR = 2.0  # a queue as long as the deadline would miss it for everyone as soon as runs slow down a little

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(slots=True, eq=False)
class SessionRun:
    """One session run, shared by the requests whose samples it computed.

    Attributes:
        started: in seconds of `time.perf_counter`.
        seconds: its duration.
        size: samples in it.
        span: its context in a trace, once it has been recorded there.
    """

    started: float
    seconds: float
    size: int
    span: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """One request's logits, float32 (n, classes), and its times.

    Attributes:
        queue_seconds: time in the queue.
        compute_seconds: time in session runs, each counted in full although it is shared with other requests.
        batch: samples in the largest run that included one of this request's samples.
        submitted_at: when the request entered the queue, in seconds of `time.perf_counter`.
        runs: the session runs, in order.
    """

    logits: NDArray[np.float32]
    queue_seconds: float
    compute_seconds: float
    batch: int
    submitted_at: float
    runs: tuple[SessionRun, ...]


@dataclass(slots=True, eq=False)
class _Request:
    samples: Sequence[NDArray[np.uint8]]
    done: asyncio.Future[None]
    submitted_at: float
    logits: list[NDArray[np.float32] | None]
    scheduled: int = 0
    unfinished: int = field(init=False)
    runs: list[SessionRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unfinished = len(self.samples)


class Batcher:
    """The queue of one session.

    A run starts as soon as the session is free and takes the queued samples, up to `max_batch` and up to RUN_SECONDS at
    the pace of recent runs. A request never waits for a batch to fill.

    Args:
        run: uint8 (N, ...) to logits, float32 (N, classes).
        executor: one thread, shared by all sessions of the process.
        max_batch: samples per run.
        max_queue: samples queued.
        seconds: time per sample, as measured before the first run; also the attribute `best_seconds`.
        on_batch: called after every run with its samples and its seconds.
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
        self.best_seconds = seconds
        self.queued = 0
        self._run = run
        self._executor = executor
        self._max_queue = max_queue
        self._seconds = seconds
        self._on_batch = on_batch
        self._queue: deque[_Request] = deque()
        self._worker: asyncio.Task[None] | None = None

    def check(self, samples: int, seconds_left: float) -> None:
        """Check that `samples` more fit into the queue and are likely to finish within `seconds_left`.

        While the session is idle every request is accepted: only a run can show that the session is fast again.

        Raises:
            BusyError: the queue is full, or its estimated time exceeds `seconds_left`.
        """
        expected = (self.queued * _QUEUE_FACTOR + samples) * self._seconds
        if self.queued + samples > self._max_queue:
            raise BusyError(
                f"{self.queued} samples are queued, and {samples} more exceed the limit of {self._max_queue}",
                seconds=expected,
            )
        if self._is_running and expected > seconds_left:
            raise BusyError(
                f"estimated queue time is {expected:.1f} s, but only {seconds_left:.1f} s remain before the deadline",
                seconds=expected - seconds_left,
            )

    @property
    def is_idle(self) -> bool:
        """Whether no sample is queued and no run is under way."""
        return not self.queued and not self._is_running

    @property
    def _is_running(self) -> bool:
        return self._worker is not None and not self._worker.done()

    async def submit(self, samples: Sequence[NDArray[np.uint8]], deadline: float) -> BatchResult:
        """Compute the logits of samples that already have the session's dtype and shape.

        Args:
            samples: one request's samples.
            deadline: time of the event loop's clock.

        Raises:
            BusyError: the queue is full, or too long for the deadline.
            DeadlineError: the deadline passed; samples that have not started are dropped.
        """
        loop = asyncio.get_running_loop()
        self.check(len(samples), deadline - loop.time())
        request = _Request(samples, loop.create_future(), time.perf_counter(), [None] * len(samples))
        self._queue.append(request)
        self.queued += len(samples)
        if not self._is_running:
            self._worker = loop.create_task(self._drain())
        try:
            async with asyncio.timeout_at(deadline):
                await request.done
        except TimeoutError:
            raise DeadlineError("the prediction was not ready before the deadline; retry later") from None
        finally:
            self._drop_unscheduled(request)
        total_seconds = time.perf_counter() - request.submitted_at
        compute_seconds = sum(run.seconds for run in request.runs)
        return BatchResult(
            logits=np.stack([row for row in request.logits if row is not None]),
            queue_seconds=max(0.0, total_seconds - compute_seconds),
            compute_seconds=compute_seconds,
            batch=max(run.size for run in request.runs),
            submitted_at=request.submitted_at,
            runs=tuple(request.runs),
        )

    def _drop_unscheduled(self, request: _Request) -> None:
        """Uncount samples that did not start; `_next_batch` removes the request from the queue."""
        self.queued -= len(request.samples) - request.scheduled
        request.scheduled = len(request.samples)

    def _next_batch(self) -> list[tuple[_Request, int]]:
        """Take the samples of the next run, one of each request in turn."""
        batch: list[tuple[_Request, int]] = []
        limit = max(1, min(self.max_batch, int(RUN_SECONDS / max(self._seconds, 1e-6))))
        while self._queue and len(batch) < limit:
            request = self._queue.popleft()
            if request.scheduled == len(request.samples):
                continue
            batch.append((request, request.scheduled))
            request.scheduled += 1
            self.queued -= 1
            if request.scheduled < len(request.samples):
                self._queue.append(request)
        return batch

    async def _drain(self) -> None:
        while batch := self._next_batch():
            samples = [request.samples[index] for request, index in batch]
            try:
                logits, run = await self._timed_run(samples)
            except Exception as error:  # a session may raise anything; only the sample that causes it must fail
                await self._run_one_by_one(batch, error)
                continue
            self._seconds += 0.2 * (run.seconds / len(batch) - self._seconds)
            self._on_batch(len(batch), run.seconds)
            for row, (request, index) in zip(logits, batch, strict=True):
                self._finish(request, index, row, run)

    async def _run_one_by_one(self, batch: list[tuple[_Request, int]], batch_error: Exception) -> None:
        for request, index in batch:
            error = batch_error
            if len(batch) > 1:
                try:
                    logits, run = await self._timed_run([request.samples[index]])
                except Exception as sample_error:
                    error = sample_error
                else:
                    self._finish(request, index, logits[0], run)
                    continue
            if not request.done.done():
                request.done.set_exception(error)

    async def _timed_run(self, samples: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], SessionRun]:
        def run() -> tuple[NDArray[np.float32], SessionRun]:
            started = time.perf_counter()
            logits = self._run(np.stack(samples))
            return logits, SessionRun(started, time.perf_counter() - started, len(samples))

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    @staticmethod
    def _finish(request: _Request, index: int, row: NDArray[np.float32], run: SessionRun) -> None:
        request.logits[index] = row
        request.unfinished -= 1
        if not request.runs or request.runs[-1] is not run:
            request.runs.append(run)
        if request.unfinished == 0 and not request.done.done():
            request.done.set_result(None)
