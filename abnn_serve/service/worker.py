"""What one worker process holds: bundles, limits, keys, metrics, and whether it is leaving."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

from starlette.types import ASGIApp

from abnn_serve.hardware import usable_cores
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.admission import Gate
from abnn_serve.service.auth import KeyRing
from abnn_serve.service.catalog import Catalog
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.settings import ServiceSettings

log = logging.getLogger("abnn_serve")


class State:
    """Made when the service is imported, filled by `load` before the first request."""

    app: ASGIApp
    limits: ServiceSettings
    metrics: Metrics
    gate: Gate
    catalog: Catalog
    keys: KeyRing | None = None

    def __init__(self) -> None:
        self.ready = self.draining = False
        self._tasks: list[asyncio.Task[Any]] = []

    def load(self, environ: Mapping[str, str]) -> None:
        """Read the settings, load and warm up every bundle.

        Raises:
            AbnnError: a setting or a bundle that cannot be used.
        """
        settings, self.limits = Settings.from_environment(environ), ServiceSettings.from_environment(environ)
        if settings.threads is None:
            settings = replace(settings, threads=max(1, usable_cores() // self.limits.workers))
        self.keys = KeyRing(self.limits.api_key_file) if self.limits.api_key_file else None
        self.metrics = Metrics(workers=self.limits.workers)
        self.gate = Gate(self.limits.max_queue, self.limits.max_buffered_bytes)
        self.catalog = Catalog(settings, self.limits, self.metrics, self.leave)
        self.ready = True

    def start(self) -> None:
        """Watch the bundles and wait for SIGTERM; called once, on the event loop that serves."""
        loop = asyncio.get_running_loop()
        if self.limits.reload_seconds:
            self._tasks.append(loop.create_task(self.catalog.watch(self.limits.reload_seconds)))
        self._drain_on_sigterm(loop)

    def leave(self) -> None:
        """End this worker, whose GPU no longer works: /readyz says no, and the supervisor starts another."""
        if self.ready:
            self.ready = False
            log.error("the GPU no longer works in this process: shutting down")
            os.kill(os.getpid(), signal.SIGTERM)

    def measure(self) -> None:
        """Show how full this worker is."""
        self.metrics.inside.set(self.gate.inside)
        self.metrics.waiting.set(sum(served.batcher.waiting for served in self.catalog.all()))

    def stop(self) -> None:
        """Let tasks and threads go."""
        for task in self._tasks:
            task.cancel()
        self.gate.close()

    def _drain_on_sigterm(self, loop: asyncio.AbstractEventLoop) -> None:
        """On SIGTERM say so at /readyz and close each connection with its next answer; later let uvicorn end."""
        end = signal.getsignal(signal.SIGTERM)
        if not callable(end):
            return

        def drain(number: int, frame: FrameType | None) -> None:
            if not self.draining:
                self.draining = True
                log.info("leaving: answering for %d seconds more", self.limits.drain_seconds)
                later = partial(loop.call_later, self.limits.drain_seconds, end, number, frame)
                loop.call_soon_threadsafe(later)

        signal.signal(signal.SIGTERM, drain)
