"""OpenTelemetry spans of each request and its stages, sent to a collector by OTLP over HTTP.

They are made after the response, of what the log line and Server-Timing have; a thread of the SDK sends them. A session
run is shared by requests, so it is a trace of its own, and the span `compute` of each request has a link to it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.service.batcher import SessionRun
from abnn_serve.service.traces import SAMPLED, TraceContext
from abnn_serve.version import __version__

_SERVER_ERROR = 500
_SHUTDOWN_SECONDS = 0.5
_EXPORT_SECONDS = 5.0
_QUEUE = 10_000  # spans that wait, about five of each request; further ones are dropped
_BATCH = 500  # spans sent at once
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
        from opentelemetry.sdk.trace import ReadableSpan  # made directly: a tracer takes three times as long
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

        class OneResource(Resource):  # type: ignore[misc]
            __hash__ = object.__hash__  # the exporter hashes it for every span; its own hash encodes it as JSON

        service = Resource.create({"service.name": "abnn_serve", "service.version": __version__})
        self._common = {
            "resource": OneResource(dict(service.attributes), service.schema_url),
            "instrumentation_scope": InstrumentationScope("abnn_serve", __version__),
        }
        self._link, self._span, self._span_context = Link, ReadableSpan, SpanContext
        self._server, self._flags = SpanKind.SERVER, TraceFlags(SAMPLED)
        self._statuses = {failed: Status(StatusCode.ERROR if failed else StatusCode.UNSET) for failed in (True, False)}
        self._share = share
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS),
            max_queue_size=_QUEUE,
            schedule_delay_millis=1000,
            max_export_batch_size=_BATCH,
        )

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
        own = self._context(int(trace.trace_id, 16), int(trace.span_id, 16))
        parent = self._context(own.trace_id, int(trace.parent_id, 16), is_remote=True) if trace.parent_id else None
        attributes = {name: fields[key] for key, name in _ATTRIBUTES.items() if fields.get(key) is not None}
        clock_zero = time.time_ns() - int(1e9 * time.perf_counter())
        self._end(
            f"{fields['method']} {route}",
            clock_zero + int(1e9 * started),
            seconds,
            context=own,
            parent=parent,
            attributes={**attributes, "http.route": route},
            kind=self._server,
            status=self._statuses[fields["status"] >= _SERVER_ERROR],
        )
        for name, stage_started, stage_seconds, run in stages:
            start = clock_zero + int(1e9 * stage_started)
            if run and run.span is None:
                run.span = self._context(random.getrandbits(128) or 1, random.getrandbits(64) or 1)
                self._end("session run", start, stage_seconds, context=run.span, attributes={"abnn.batch": run.size})
            context = self._context(own.trace_id, random.getrandbits(64) or 1)
            links = (self._link(run.span),) if run else ()
            self._end(name, start, stage_seconds, context=context, parent=own, links=links)

    def close(self) -> None:
        """Send what is left, for at most half a second."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_SHUTDOWN_SECONDS)

    def _end(self, name: str, start: int, seconds: float, **details: Any) -> None:
        """Pass on a span that began at `start`, in nanoseconds since 1970."""
        end = start + int(1e9 * seconds)
        self._processor.on_end(self._span(name, start_time=start, end_time=end, **details, **self._common))

    def _context(self, trace_id: int, span_id: int, *, is_remote: bool = False) -> Any:
        return self._span_context(trace_id, span_id, is_remote=is_remote, trace_flags=self._flags)
