"""The stages of one request: upload, decode, queue and compute, under limits and a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from abnn_serve.arrays import batch_slices, softmax
from abnn_serve.runtime.predictions import Prediction
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.rules.base import Passes, RuleAnswer
from abnn_serve.runtime.rules.plain import NO_CERTIFICATE, PlainRule
from abnn_serve.service.admission import Admission, UploadBytes
from abnn_serve.service.batcher import BatchResult
from abnn_serve.service.endpoints.answers import LABEL_ONLY, read_abstain_below
from abnn_serve.service.errors import BadRequestError, DeadlineError
from abnn_serve.service.fingerprints import Fingerprint, Inputs
from abnn_serve.service.near_duplicates import Caller
from abnn_serve.service.served_model import ServedModel
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import WorkerState
from abnn_serve.spec import Modality

T = TypeVar("T")

_FEW_VALUES = 1000
_FEW_BYTES = 200_000  # of pixels, whose fingerprints the event loop computes
_LEAST_PORTION = 16  # passes of one request in the queue at a time, so that a certificate does not fill it


class RequestPipeline:
    """Runs one request on one model; records the seconds of each stage in `request.state.stages`, and its times.

    Args:
        request: its state gets `stages`, `timeline`, `model`, `version`, `arm` and `batch`, for the log, the metrics,
            spans and Server-Timing.
        name: name of the model; None takes the default model for `modality`.
        modality: what the endpoint accepts.

    Raises:
        UnknownModelError: no such model.
    """

    def __init__(self, request: Request, name: str | None, modality: Modality = "image") -> None:
        self._state: WorkerState = request.app.state.service
        self._request = request
        version = request.path_params.get("version", request.query_params.get("version"))
        caller = getattr(request.state, "key", request.state.request_id)
        self._model: ServedModel
        self._model, self._arm = self._state.catalog.choose(name, modality, version, caller)
        self._deadline = 0.0
        self._certify = False
        self._suspicious: list[bool] = []
        self._abstain_below = read_abstain_below(request)
        request.state.stages = {}
        request.state.timeline = []
        request.state.model, request.state.version = self._model.name, self._model.version
        if self._arm:
            request.state.arm = self._arm

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

    def read_certify(self) -> bool:
        """Read `certify` from the query; call before `upload`, which then checks the deadline for its passes.

        Raises:
            BadRequestError: neither `true` nor `false`, or the model has no answer rule that certifies.
        """
        text = self._request.query_params.get("certify", "false")
        if text not in ("true", "false"):
            raise BadRequestError(f"certify is {text[:40]!r}, expected true or false", field="certify")
        if text == "true" and not self.predictor.rule.certifies:
            raise BadRequestError(NO_CERTIFICATE, field="certify")
        self._certify = text == "true"
        return self._certify

    @contextlib.asynccontextmanager
    async def upload(self, read: Callable[[UploadBytes], Awaitable[T]]) -> AsyncIterator[T]:
        """Yield what `read` returns; until the block ends, the request counts as in flight and has a deadline.

        Raises:
            BusyError: the server is at a limit. Where possible this is checked before `read` is called.
        """
        self.admission.check()
        self._model.batcher.check(1, self.limits.deadline_seconds)
        self._check_passes(1, self.limits.deadline_seconds)
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

    async def answer(self, samples: Sequence[NDArray[np.uint8]], *, one_input: bool = False) -> list[RuleAnswer]:
        """Answer samples that have the model's input shape by the model's rule, with certificates if requested.

        Args:
            samples: uint8 of the model's input shape.
            one_input: they are the clips of one video.

        Raises:
            BusyError, DeadlineError: as `Batcher.submit`; DeadlineError also if the passes cannot end in time.
        """
        if (mode := self.limits.near_duplicates) is None:
            return await self._compute(samples)
        inputs = [samples] if one_input else [[sample] for sample in samples]
        if mode == "count" and sum(sample.nbytes for sample in samples) <= _FEW_BYTES:
            answers = await self._compute(samples)
            self._state.later.put(lambda: self._state.near_duplicates.count_inputs(self._caller, inputs))
            return answers
        observing = asyncio.create_task(self._observe_in_thread(inputs))
        answers = await self._compute(samples)
        if mode == "label-only":
            self._suspicious = await observing
        return answers

    async def _compute(self, samples: Sequence[NDArray[np.uint8]]) -> list[RuleAnswer]:
        rule, batcher = self.predictor.rule, self._model.batcher
        if isinstance(rule, PlainRule):
            result = await batcher.submit(samples, self._deadline)
            answers = [RuleAnswer(logits=logits, passes=1) for logits in result.logits]
            self._record([result], samples, answers)
            return answers
        self._check_passes(len(samples), self._deadline - asyncio.get_running_loop().time())
        passes = Passes(rule, samples, certify=self._certify)
        results, logits = [], None
        portion = max(batcher.max_batch, _LEAST_PORTION)
        while (pixels := await self.admission.run_small(partial(passes.next, logits))) is not None:
            portions = [
                await batcher.submit(list(pixels[part]), self._deadline) for part in batch_slices(len(pixels), portion)
            ]
            logits = np.concatenate([result.logits for result in portions])
            results += portions
        self._record(results, samples, passes.answers)
        return passes.answers

    def _check_passes(self, samples: int, seconds_left: float) -> None:
        """Refuse a request whose passes would take longer than the deadline even on an idle server."""
        rule = self.predictor.rule
        passes = samples * rule.usual_passes(certify=self._certify)
        needed = passes * self._model.batcher.best_seconds
        if not isinstance(rule, PlainRule) and needed > seconds_left:
            raise DeadlineError(
                f"this request needs {passes:,} passes, which take at least {needed:.1f} s, but only "
                f"{seconds_left:.1f} s remain before the deadline; send fewer samples, do not certify, or raise "
                "ABNN_DEADLINE_SECONDS"
            )

    def _record(
        self, results: Sequence[BatchResult], samples: Sequence[NDArray[np.uint8]], answers: Sequence[RuleAnswer]
    ) -> None:
        compute = sum(result.compute_seconds for result in results)
        self._request.state.stages |= {"queue": sum(result.queue_seconds for result in results), "compute": compute}
        for result in results:
            waited = result.runs[0].started - result.submitted_at
            timeline = [("compute", run.started, run.seconds, run) for run in result.runs]
            self._request.state.timeline += [("queue", result.submitted_at, waited, None), *timeline]
        self._request.state.batch = max(result.batch for result in results)
        if self.limits.shadow:
            self._state.shadow.sample(self._model, samples, answers, compute / len(samples))
        self._state.later.put(partial(self._count, compute))

    def _count(self, compute: float) -> None:
        if self._arm:
            self._state.metrics.canary_seconds.labels(*self._arm).observe(compute)
        for stage, seconds in self._request.state.stages.items():
            self._state.metrics.stages.labels(self._model.name, stage).observe(seconds)

    async def run_python(self, values: int, task: Callable[[], T]) -> T:
        """Run Python code that takes up to 3 us for each value: at once if they are few, else in a thread."""
        return task() if values <= _FEW_VALUES else await self.admission.run_small(task)

    def record_quality(self, probabilities: NDArray[np.float64], samples: Sequence[NDArray[np.uint8]]) -> None:
        """Record probabilities of answers, (n, classes), and the samples behind them, for the metrics of quality."""
        self._state.later.put(partial(self._state.quality.record, self._model, probabilities, self._arm))
        self._state.quality.sample(self._model, samples)

    def conclude(self, predictions: Sequence[Prediction], samples: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """Record answers and the samples behind them; return further keys of each answer, for `complete`.

        Args:
            predictions: the answers.
            samples: one for each answer, or the clips of one answer.
        """
        logits = np.stack([prediction.logits for prediction in predictions])
        is_video = self._model.modality == "video"  # its logits are those of the mean over clips
        self.record_quality(softmax(logits) if is_video else self.predictor.reader.probabilities(logits), samples)
        flags = self.label_only or [False] * len(predictions)
        further: list[dict[str, Any]] = [{LABEL_ONLY: True} if flag else {} for flag in flags]
        for keys, prediction in zip(further, predictions, strict=True):
            if self._abstain_below is not None:
                keys["abstained"] = prediction.top[0].probability < self._abstain_below
            if keys.get("abstained", prediction.abstained):
                self._state.metrics.abstentions.labels(self._model.name).inc()
        return further

    @property
    def label_only(self) -> list[bool]:
        """For each input of `answer`: whether only its label may be told; empty if that is never so."""
        return self._suspicious

    async def _observe_in_thread(self, inputs: Inputs) -> list[bool]:
        fingerprints = await self.admission.run_small(lambda: [Fingerprint.of(samples) for samples in inputs])
        return self._state.near_duplicates.count(self._caller, fingerprints)

    @property
    def _caller(self) -> Caller:
        """Who asks: the API key, or without keys the address."""
        state, client = self._request.state, self._request.client
        if (key := getattr(state, "key", None)) is None:
            return Caller(name=client.host if client else "", alarm=self.limits.near_duplicates_alarm)
        similar = self._state.keys.terms(key).similar if self._state.keys else None
        return Caller(name=key, key=key, alarm=similar or self.limits.near_duplicates_alarm)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = self._request.state.stages[stage] = time.perf_counter() - started
            self._request.state.timeline.append((stage, started, seconds, None))
