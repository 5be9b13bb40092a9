"""OpenTelemetry spans of each request and its stages, sent to a collector by OTLP over HTTP.

Spans are made after the response, from the times that Server-Timing has, and leave in a thread of the SDK. A session
run is shared by requests, so it is a trace of its own, and the span `compute` of each request has a link to it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.service.batcher import SessionRun
from abnn_serve.service.traces import TraceContext
from abnn_serve.version import __version__

_SERVER_ERROR = 500
_SHUTDOWN_SECONDS = 0.5
_EXPORT_SECONDS = 5.0
_SAMPLED = 1

# name, start in seconds of `time.perf_counter`, duration in seconds, and of `compute` the session run
Stage = tuple[str, float, float, SessionRun | None]


class Spans:
    """Sends spans to a collector.

    Args:
        endpoint: URL of the collector, such as http://localhost:4318/v1/traces.
        share: of the requests without a caller's trace, the share that is recorded, 0 to 1.

    Raises:
        ConfigError: the extra `traces` is not installed.
    """

    def __init__(self, endpoint: str, share: float) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise ConfigError(
                f"ABNN_OTLP_ENDPOINT needs the extra traces ({error}): pip install 'abnn_serve[traces]'"
            ) from error
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import export
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._share = share
        self._resource = Resource.create({"service.name": "abnn_serve", "service.version": __version__})
        self._scope = InstrumentationScope("abnn_serve", __version__)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        self._processor = export.BatchSpanProcessor(exporter, schedule_delay_millis=1000)

    def new_trace(self) -> TraceContext:
        """A trace for a request whose caller has none."""
        is_sampled = random.random() < self._share  # noqa: S311  (not a secret)
        return TraceContext(
            trace_id=f"{random.getrandbits(128) or 1:032x}",
            span_id=f"{random.getrandbits(64) or 1:016x}",
            parent_id=None,
            flags=f"{int(is_sampled):02x}",
        )

    def record(
        self, trace: TraceContext, name: str, attributes: dict[str, Any], seconds: float, stages: Iterable[Stage]
    ) -> None:
        """Record a request that has just ended, with its stages; nothing if its trace is not sampled.

        Args:
            trace: the request's trace.
            name: method and route.
            attributes: of the request's span.
            seconds: duration of the request.
            stages: the request's timeline.
        """
        if not int(trace.flags, 16) & _SAMPLED:
            return
        now, clock = time.time_ns(), time.perf_counter()
        trace_id, own = int(trace.trace_id, 16), int(trace.span_id, 16)
        parent = int(trace.parent_id, 16) if trace.parent_id else None
        self._end(name, trace_id, own, parent, now - int(1e9 * seconds), now, attributes, is_server=True)
        for stage, started, duration, run in stages:
            start = now - int(1e9 * (clock - started))
            link = self._run_context(run, start) if run else None
            end = start + int(1e9 * duration)
            self._end(stage, trace_id, random.getrandbits(64) or 1, own, start, end, {}, link=link)

    def close(self) -> None:
        """Send what is left, for at most half a second."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_SHUTDOWN_SECONDS)

    def _run_context(self, run: SessionRun, start: int) -> Any:
        """The span of a session run, recorded when the first of its requests asks for it."""
        if run.span is None:
            attributes = {"abnn.batch": run.size}
            end = start + int(1e9 * run.seconds)
            trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
            run.span = self._end("session run", trace_id, span_id, None, start, end, attributes)
        return run.span

    def _end(
        self,
        name: str,
        trace_id: int,
        span_id: int,
        parent_id: int | None,
        start: int,
        end: int,
        attributes: dict[str, Any],
        *,
        is_server: bool = False,
        link: Any = None,
    ) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan  # made directly: a tracer takes three times as long
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

        flags, parent = TraceFlags(_SAMPLED), None
        context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
        if parent_id is not None:
            parent = SpanContext(trace_id, parent_id, is_remote=is_server, trace_flags=flags)
        failed = attributes.get("http.response.status_code", 0) >= _SERVER_ERROR
        self._processor.on_end(
            ReadableSpan(
                name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=(Link(link),) if link else (),
                kind=SpanKind.SERVER if is_server else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
                start_time=start,
                end_time=end,
                instrumentation_scope=self._scope,
            )
        )
        return context
