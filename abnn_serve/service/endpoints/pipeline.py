"""The stages of one request: upload, decode, queue and compute, under limits and a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.admission import Admission, UploadBytes
from abnn_serve.service.batcher import BatchResult
from abnn_serve.service.catalog import ServedModel
from abnn_serve.service.errors import DeadlineError
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import WorkerState
from abnn_serve.spec import Modality

T = TypeVar("T")


class RequestPipeline:
    """Runs one request on one model and records the seconds of each stage in `request.state.stages`.

    Args:
        request: its state gets `stages`, `model` and `batch`, for the log, the metrics and Server-Timing.
        name: name of the model; None takes the default model for `modality`.
        modality: what the endpoint accepts.

    Raises:
        UnknownModelError: no such model.
    """

    def __init__(self, request: Request, name: str | None, modality: Modality = "image") -> None:
        self._state: WorkerState = request.app.state.service
        self._request = request
        self._model: ServedModel = self._state.catalog.get(name, modality)
        self._deadline = 0.0
        request.state.stages = {}
        request.state.model = self._model.name

    @property
    def predictor(self) -> Predictor:
        """The model's predictor; a reload during the request does not change it."""
        return self._model.predictor

    @property
    def admission(self) -> Admission:
        """The worker's limits and decoding pools."""
        return self._state.admission

    @property
    def limits(self) -> ServiceSettings:
        """The worker's settings."""
        return self._state.limits

    @contextlib.asynccontextmanager
    async def upload(self, read: Callable[[UploadBytes], Awaitable[T]]) -> AsyncIterator[T]:
        """Yield what `read` returns; until the block ends, the request counts as in flight and has a deadline.

        Raises:
            BusyError: the server is at a limit. Where possible this is checked before `read` is called.
        """
        self.admission.check()
        self._model.batcher.check(1, self.limits.deadline_seconds)
        with self.admission.upload_bytes() as counter:
            with self._timed("upload"):
                upload = await read(counter)
            with self.admission.admit():
                self._deadline = asyncio.get_running_loop().time() + self.limits.deadline_seconds
                yield upload

    async def decode(self, decoding: Awaitable[T]) -> T:
        """Wait for a decoding task.

        Raises:
            DeadlineError: it was not done before the deadline.
        """
        with self._timed("decode"):
            try:
                async with asyncio.timeout_at(self._deadline):
                    return await decoding
            except TimeoutError:
                raise DeadlineError("the input was not decoded before the deadline; retry later") from None

    async def infer(self, samples: Sequence[NDArray[np.uint8]]) -> BatchResult:
        """Compute the logits of samples that have the model's input shape.

        Raises:
            BusyError, DeadlineError: as `Batcher.submit`.
        """
        result = await self._model.batcher.submit(samples, self._deadline)
        self._request.state.stages |= {"queue": result.queue_seconds, "compute": result.compute_seconds}
        self._request.state.batch = result.batch
        for stage, seconds in self._request.state.stages.items():
            self._state.metrics.stages.labels(self._model.name, stage).observe(seconds)
        return result

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._request.state.stages[stage] = time.perf_counter() - started
