"""OpenTelemetry spans of each request and its stages, sent to a collector by a process of their own.

They are made after the response, of what the log line and Server-Timing have. A session run is shared by requests, so
it is a trace of its own, and the span `compute` of each request has a link to it.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.service.batcher import SessionRun
from abnn_serve.service.tracing.context import SAMPLED, TraceContext
from abnn_serve.service.tracing.records import RequestRecord, RunRecord, StageRecord

log = logging.getLogger("abnn_serve")

_SERVER_ERROR = 500
_SECONDS = 0.1  # that a request waits for others
_MOST = 5000  # requests that wait while the collector is slower than they come; spans of further ones are dropped
_SHUTDOWN_SECONDS = 0.5
_RESTART_SECONDS = 10.0
_ATTRIBUTES = {  # keys of the log to the semantic conventions of OpenTelemetry
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
    "client": "client.address",
    "code": "error.type",
    "model": "abnn.model",
    "version": "abnn.version",
    "batch": "abnn.batch",
}

# name, start in seconds of `time.perf_counter`, duration in seconds, and of `compute` the session run
Stage = tuple[str, float, float, SessionRun | None]


class Spans:
    """Sends spans to a collector.

    Args:
        endpoint: URL of the collector, such as http://localhost:4318/v1/traces.
        share: of the requests without a caller's trace, the share that is recorded, 0 to 1.
        on_drop: called with a number of requests whose spans are dropped.

    Raises:
        ConfigError: the extra `traces` is not installed.
    """

    def __init__(self, endpoint: str, share: float, on_drop: Callable[[int], object]) -> None:
        if not _has_exporter():
            raise ConfigError("ABNN_OTLP_ENDPOINT needs the extra traces: pip install 'abnn_serve[traces]'")
        self._endpoint, self._share, self._on_drop = endpoint, share, on_drop
        self._waiting: deque[RequestRecord] = deque()
        self._closing = threading.Event()
        self._start()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def new_trace(self) -> TraceContext | None:
        """A trace for a request whose caller has none; None for a request that is not recorded."""
        if random.random() >= self._share:  # noqa: S311  (not a secret)
            return None
        return TraceContext(
            trace_id=f"{random.getrandbits(128) or 1:032x}",
            span_id=f"{random.getrandbits(64) or 1:016x}",
            parent_id=None,
            flags=f"{SAMPLED:02x}",
        )

    def record(
        self,
        trace: TraceContext,
        route: str,
        fields: Mapping[str, Any],
        started: float,
        seconds: float,
        stages: Sequence[Stage],
    ) -> None:
        """Record a request, its stages, and the session runs that no earlier request had a part in.

        Args:
            trace: the request's trace.
            route: the path with its parameters as names.
            fields: of the request's log line.
            started: in seconds of `time.perf_counter`.
            seconds: duration of the request.
            stages: the request's timeline.
        """
        if len(self._waiting) >= _MOST:
            self._on_drop(1)
            return
        clock_zero = time.time_ns() - int(1e9 * time.perf_counter())
        attributes = {name: fields[key] for key, name in _ATTRIBUTES.items() if fields.get(key) is not None}
        record = RequestRecord(
            name=f"{fields['method']} {route}",
            trace_id=int(trace.trace_id, 16),
            span_id=int(trace.span_id, 16),
            parent_id=int(trace.parent_id, 16) if trace.parent_id else None,
            started=clock_zero + int(1e9 * started),
            duration=int(1e9 * seconds),
            attributes={**attributes, "http.route": route},
            failed=fields["status"] >= _SERVER_ERROR,
            stages=[
                StageRecord(name, clock_zero + int(1e9 * begun), int(1e9 * lasted), _run_record(run) if run else None)
                for name, begun, lasted, run in stages
            ],
        )
        self._waiting.append(record)

    def close(self) -> None:
        """Send what is left, for at most half a second."""
        end = time.monotonic() + _SHUTDOWN_SECONDS
        self._closing.set()
        self._thread.join(_SHUTDOWN_SECONDS)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(end - time.monotonic(), 0))
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        command = [sys.executable, "-m", f"{__package__}.exporter", self._endpoint]
        path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        environment = {**os.environ, "PYTHONPATH": path}
        end, self._pipe = Pipe(duplex=False)
        with end:
            self._process = subprocess.Popen(command, stdin=end.fileno(), env=environment, cwd="/")  # noqa: S603

    def _run(self) -> None:
        while not self._closing.wait(_SECONDS):
            if self._waiting:
                self._send()
        self._send()
        self._pipe.close()  # the process sends what it has, and ends

    def _send(self) -> None:
        """Pass on what waits; blocks while the process cannot take it."""
        records = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._pipe.send(records)
        except OSError as error:
            self._on_drop(len(records))
            self._pipe.close()
            status = self._process.wait()
            log.warning("the process that sends spans ended with status %d (%s); starting another", status, error)
            if not self._closing.wait(_RESTART_SECONDS):
                self._start()


def _has_exporter() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


def _run_record(run: SessionRun) -> RunRecord:
    """The run with its ids, which it gets with its first request."""
    is_new = run.span is None
    if run.span is None:
        run.span = (random.getrandbits(128) or 1, random.getrandbits(64) or 1)
    trace_id, span_id = run.span
    return RunRecord(trace_id, span_id, run.size, is_new)
