"""One request's way from what was sent to logits: admitted, under its deadline, each stage timed."""

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
from abnn_serve.service.admission import Account, Gate
from abnn_serve.service.batcher import Answered
from abnn_serve.service.catalog import Served
from abnn_serve.service.errors import DeadlineError
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import State
from abnn_serve.spec import Modality

T = TypeVar("T")


class Work:
    """What an endpoint needs to answer one request with one bundle, pictures and clips alike.

    Args:
        request: whose state takes the stages' seconds, for the log, the metrics and Server-Timing.
        name: of the bundle; None for the default one.
        modality: what the endpoint takes.

    Raises:
        UnknownModelError: no such bundle.
    """

    def __init__(self, request: Request, name: str | None, modality: Modality = "image") -> None:
        self._state: State = request.app.state.service
        self._request = request
        self._served: Served = self._state.catalog.get(name, modality)
        self._deadline = 0.0
        request.state.stages = {}
        request.state.model = self._served.name

    @property
    def predictor(self) -> Predictor:
        """The bundle that answers: the same one to the end of the request, whatever is reloaded meanwhile."""
        return self._served.predictor

    @property
    def gate(self) -> Gate:
        """The lanes for work in threads."""
        return self._state.gate

    @property
    def limits(self) -> ServiceSettings:
        """What may be sent."""
        return self._state.limits

    @contextlib.asynccontextmanager
    async def received(self, read: Callable[[Account], Awaitable[T]]) -> AsyncIterator[T]:
        """What `read` gets from the client; the block that answers it counts as a request inside, with a deadline.

        Raises:
            BusyError: no room; where that is known, before anything was read.
        """
        self.gate.check()
        self._served.batcher.admit(1, self.limits.deadline_seconds)
        with self.gate.account() as account:
            with self._stage("upload"):
                upload = await read(account)
            with self.gate.admitted():
                self._deadline = asyncio.get_running_loop().time() + self.limits.deadline_seconds
                yield upload

    async def decode(self, decoding: Awaitable[T]) -> T:
        """Wait for what a lane of the gate decodes; DeadlineError when it is not there in time."""
        with self._stage("decode"):
            try:
                async with asyncio.timeout_at(self._deadline):
                    return await decoding
            except TimeoutError:
                raise DeadlineError("the input was not decoded before the deadline; try again") from None

    async def infer(self, samples: Sequence[NDArray[np.uint8]]) -> Answered:
        """Logits of samples of the bundle's shape, in batches with those of other requests."""
        answered = await self._served.batcher.submit(samples, self._deadline)
        self._request.state.stages |= {"queue": answered.queue_seconds, "compute": answered.compute_seconds}
        self._request.state.batch = answered.batch
        for stage, seconds in self._request.state.stages.items():
            self._state.metrics.stages.labels(self._served.name, stage).observe(seconds)
        return answered

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._request.state.stages[name] = time.perf_counter() - started
