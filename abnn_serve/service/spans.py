"""OpenTelemetry spans of each request and its stages, sent to a collector by OTLP over HTTP.

The event loop hands over what the log line and Server-Timing have, after the response; a thread of the SDK makes the
spans and sends them. A session run is shared by requests, so it is a trace of its own, and the span `compute` of each
request has a link to it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.service.batcher import SessionRun
from abnn_serve.service.traces import TraceContext
from abnn_serve.version import __version__

_SERVER_ERROR = 500
_SHUTDOWN_SECONDS = 0.5
_EXPORT_SECONDS = 5.0
_QUEUE = 2048  # requests that wait; further ones are dropped
_BATCH = 100  # requests sent at once, with about five spans each
_SAMPLED = 1
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A request that ended at `ended`, in nanoseconds since 1970, and at `clock`, in seconds of perf_counter.

    `context` says that it is sampled, as the SDK asks of what is exported.
    """

    context: Any
    trace: TraceContext
    route: str
    fields: Mapping[str, Any]
    seconds: float
    stages: Sequence[Stage]
    ended: int
    clock: float


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
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanContext, TraceFlags

        self._share = share
        self._context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(_SAMPLED))
        exporter = _Exporter(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS))
        self._processor = BatchSpanProcessor(
            exporter, max_queue_size=_QUEUE, schedule_delay_millis=1000, max_export_batch_size=_BATCH
        )

    def new_trace(self) -> TraceContext:
        """A trace for a request whose caller has none."""
        is_sampled = random.random() < self._share  # noqa: S311  (not a secret)
        return TraceContext(
            trace_id=f"{random.getrandbits(128) or 1:032x}",
            span_id=f"{random.getrandbits(64) or 1:016x}",
            parent_id=None,
            flags="01" if is_sampled else "00",
        )

    def record(
        self, trace: TraceContext, route: str, fields: Mapping[str, Any], seconds: float, stages: Sequence[Stage]
    ) -> None:
        """Record a request that has just ended, with its stages; nothing if its trace is not sampled.

        Args:
            trace: the request's trace.
            route: the path with its parameters as names.
            fields: of the request's log line.
            seconds: duration of the request.
            stages: the request's timeline.
        """
        if not int(trace.flags, 16) & _SAMPLED:
            return
        request = _Request(
            context=self._context,
            trace=trace,
            route=route,
            fields=fields,
            seconds=seconds,
            stages=stages,
            ended=time.time_ns(),
            clock=time.perf_counter(),
        )
        self._processor.on_end(request)

    def close(self) -> None:
        """Send what is left, for at most half a second."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_SHUTDOWN_SECONDS)


class _Exporter:
    """Makes the spans of requests, and passes them on to an exporter of spans."""

    def __init__(self, exporter: Any) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan  # made directly: a tracer takes three times as long
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

        self._exporter, self._link, self._span, self._span_context = exporter, Link, ReadableSpan, SpanContext
        self._server, self._flags = SpanKind.SERVER, TraceFlags(_SAMPLED)
        self._statuses = {failed: Status(StatusCode.ERROR if failed else StatusCode.UNSET) for failed in (True, False)}
        self._common = {
            "resource": Resource.create({"service.name": "abnn_serve", "service.version": __version__}),
            "instrumentation_scope": InstrumentationScope("abnn_serve", __version__),
        }

    def export(self, requests: Sequence[_Request]) -> Any:
        """Send the spans of requests."""
        return self._exporter.export([span for request in requests for span in self._spans(request)])

    def shutdown(self) -> None:
        """Let the exporter go."""
        self._exporter.shutdown()

    def _spans(self, request: _Request) -> Iterator[Any]:
        """The spans of one request, and those of session runs that no earlier request had a part in."""
        trace, ended, fields = request.trace, request.ended, request.fields
        own = self._context(int(trace.trace_id, 16), int(trace.span_id, 16))
        parent = self._context(own.trace_id, int(trace.parent_id, 16), is_remote=True) if trace.parent_id else None
        attributes = {name: fields[key] for key, name in _ATTRIBUTES.items() if fields.get(key) is not None}
        yield self._span(
            f"{fields['method']} {request.route}",
            context=own,
            parent=parent,
            attributes={**attributes, "http.route": request.route},
            kind=self._server,
            status=self._statuses[fields["status"] >= _SERVER_ERROR],
            start_time=ended - int(1e9 * request.seconds),
            end_time=ended,
            **self._common,
        )
        for name, started, seconds, run in request.stages:
            start = ended - int(1e9 * (request.clock - started))
            times = {"start_time": start, "end_time": start + int(1e9 * seconds)}
            if run and run.span is None:
                run.span = self._context(random.getrandbits(128) or 1, random.getrandbits(64) or 1)
                size = {"abnn.batch": run.size}
                yield self._span("session run", context=run.span, attributes=size, **times, **self._common)
            context = self._context(own.trace_id, random.getrandbits(64) or 1)
            links = (self._link(run.span),) if run else ()
            yield self._span(name, context=context, parent=own, links=links, **times, **self._common)

    def _context(self, trace_id: int, span_id: int, *, is_remote: bool = False) -> Any:
        return self._span_context(trace_id, span_id, is_remote=is_remote, trace_flags=self._flags)
