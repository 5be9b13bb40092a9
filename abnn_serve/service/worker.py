"""State of one worker process: bundles, limits, keys, metrics, and readiness."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

from starlette.types import ASGIApp

from abnn_serve.hardware import cuda_devices, usable_cores
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.admission import Admission
from abnn_serve.service.auth import KeyRing
from abnn_serve.service.catalog import Catalog
from abnn_serve.service.gpus import take_gpu
from abnn_serve.service.hosts import HostCheck
from abnn_serve.service.later import Later
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.near_duplicates import NearDuplicates
from abnn_serve.service.quality import QualitySignals
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.shadow import Shadow
from abnn_serve.service.tracing.spans import Spans

log = logging.getLogger("abnn_serve")
_ON_GPU = ("auto", "cuda", "tensorrt")
_IDLE_SECONDS = 0.02  # a client that sends its next request at once is not disturbed
_DECODING_SHARE = 0.8  # of the deadline; a video's process is killed a second later


class WorkerState:
    """Created when the service module is imported; `load` fills it before the first request.

    Attributes:
        ready: every bundle is loaded and warmed up.
        draining: the worker received SIGTERM.
        later: work after responses.
    """

    app: ASGIApp
    limits: ServiceSettings
    metrics: Metrics
    admission: Admission
    catalog: Catalog
    quality: QualitySignals
    shadow: Shadow
    decoders: DecoderPool
    hosts: HostCheck
    keys: KeyRing | None = None
    near_duplicates: NearDuplicates
    spans: Spans | None = None

    def __init__(self) -> None:
        self.ready = self.draining = False
        self.later = Later()
        self._tasks: list[asyncio.Task[Any]] = []

    def load(self, environ: Mapping[str, str]) -> None:
        """Read the settings, then load and warm up every bundle.

        Raises:
            AbnnError: an invalid setting, or a bundle that cannot be loaded.
        """
        settings, self.limits = Settings.from_environment(environ), ServiceSettings.from_environment(environ)
        if settings.threads is None:
            settings = replace(settings, threads=max(1, usable_cores() // self.limits.workers))
        if settings.gpu is None and self.limits.workers > 1 and settings.device in _ON_GPU:
            settings = replace(settings, gpu=_own_gpu())
        self.keys = KeyRing(self.limits.api_key_file) if self.limits.api_key_file else None
        self.hosts = HostCheck(self.limits)
        self.metrics = Metrics(workers=self.limits.workers)
        self.admission = Admission(self.limits.max_queue, self.limits.max_buffered_bytes)
        self.decoders = DecoderPool(on_death=lambda cause: self.metrics.decoder_deaths.labels(cause).inc())
        with ThreadPoolExecutor(1) as starting:  # while the bundles are loaded
            started = starting.submit(self.decoders.start)
            self.catalog = Catalog(
                _within_deadline(settings, self.limits),
                self.limits,
                self.metrics,
                self.decoders,
                on_device_lost=self.shut_down,
            )
            started.result()
        self.quality = QualitySignals(self.metrics, self.limits.drift_sample, self.is_idle)
        if endpoint := self.limits.otlp_endpoint:
            self.spans = Spans(endpoint, self.limits.trace_sample, on_drop=self.metrics.dropped_traces.inc)
        self.near_duplicates = NearDuplicates(self.metrics)
        self.shadow = Shadow(self.metrics, self.limits.shadow_sample, self.catalog.shadow_of, self.is_idle)
        self.ready = True

    @property
    def can_answer(self) -> bool:
        """Whether requests are accepted: every bundle is loaded, images can be decoded, and SIGTERM has not come."""
        return self.ready and not self.draining and self.decoders.is_ready

    def start(self) -> None:
        """Start reloading bundles, and drain on SIGTERM. Call once, in the event loop that serves."""
        loop = asyncio.get_running_loop()
        if self.limits.reload_seconds:
            self._tasks.append(loop.create_task(self.catalog.watch(self.limits.reload_seconds)))
        if self.limits.drift_sample:
            self._tasks.append(loop.create_task(self.quality.measure_drift()))
        if self.limits.shadow:
            self._tasks.append(loop.create_task(self.shadow.run()))
        self._drain_on_sigterm(loop)

    def shut_down(self) -> None:
        """Fail /readyz and send this process SIGTERM, because its GPU failed; the supervisor starts another worker."""
        if self.ready:
            self.ready = False
            log.error("the GPU no longer works in this process: shutting down")
            os.kill(os.getpid(), signal.SIGTERM)

    def is_idle(self) -> bool:
        """Whether no request has been in flight for _IDLE_SECONDS, and no session has work."""
        rested = time.perf_counter() - self.admission.left_at >= _IDLE_SECONDS
        return rested and not self.admission.in_flight and all(queue.is_idle for queue in self.catalog.queues())

    def update_gauges(self) -> None:
        """Update the metrics for requests in flight and queued samples."""
        self.metrics.in_flight.set(self.admission.in_flight)
        self.metrics.queued.set(sum(queue.queued for queue in self.catalog.queues()))

    def stop(self) -> None:
        """Cancel background tasks and shut down the thread pools."""
        for task in self._tasks:
            task.cancel()
        self.admission.close()
        self.quality.close()
        self.shadow.close()
        if self.spans:
            self.spans.close()
        self.decoders.close()

    def _drain_on_sigterm(self, loop: asyncio.AbstractEventLoop) -> None:
        """On SIGTERM, fail /readyz and close connections after their response; then let uvicorn shut down."""
        shut_down = signal.getsignal(signal.SIGTERM)
        if not callable(shut_down):
            return

        def drain(number: int, frame: FrameType | None) -> None:
            if not self.draining:
                self.draining = True
                log.info("shutting down: new requests are accepted for %d s", self.limits.drain_seconds)
                later = partial(loop.call_later, self.limits.drain_seconds, shut_down, number, frame)
                loop.call_soon_threadsafe(later)

        signal.signal(signal.SIGTERM, drain)


def _own_gpu() -> int | None:
    """A GPU for this worker; None if there is no choice."""
    gpus = cuda_devices()
    if gpus < 2:
        return None
    gpu = take_gpu(gpus)
    log.info("this worker uses GPU %d of %d", gpu, gpus)
    return gpu


def _within_deadline(settings: Settings, limits: ServiceSettings) -> Settings:
    """Settings under which a file that takes too long is rejected as such before the request misses its deadline."""
    seconds = _DECODING_SHARE * limits.deadline_seconds
    return replace(
        settings,
        limits=replace(settings.limits, decode_seconds=min(settings.limits.decode_seconds, seconds)),
        video_limits=replace(settings.video_limits, decode_seconds=min(settings.video_limits.decode_seconds, seconds)),
    )
