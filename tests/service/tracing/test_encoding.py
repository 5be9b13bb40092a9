"""The OTLP message of a request, beside that of OpenTelemetry's own encoder."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.exporter", reason="needs the extra traces")

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from abnn_serve.service.tracing.encoding import encode
from abnn_serve.service.tracing.records import RequestRecord, RunRecord, StageRecord
from abnn_serve.version import __version__

STARTED, MS = 1_790_000_000_000_000_000, 1_000_000


@pytest.mark.parametrize("parent_id", [None, 7])
@pytest.mark.parametrize("failed", [False, True])
def test_the_message_of_a_request_is_that_of_the_encoder_of_opentelemetry(parent_id, failed):
    attributes = {"http.response.status_code": 500 if failed else 200, "http.route": "/classify"}
    request = RequestRecord("POST /classify", 1 << 127, 3, parent_id, STARTED, 9 * MS, attributes, failed, [])
    span = sdk_span(
        "POST /classify",
        9 * MS,
        context=SpanContext(1 << 127, 3, is_remote=False),
        parent=SpanContext(1 << 127, parent_id, is_remote=True) if parent_id else None,
        attributes=attributes,
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
    )
    assert as_dict(encode([request])) == as_dict(encode_spans([span]))


@pytest.mark.parametrize("is_new", [True, False])
def test_a_stage_is_linked_to_its_session_run_which_is_sent_once(is_new):
    stage = StageRecord("compute", STARTED, 2 * MS, RunRecord(5, 6, size=8, is_new=is_new))
    request = RequestRecord("GET /x", 1, 3, None, STARTED, 9 * MS, {}, failed=False, stages=[stage])
    run = SpanContext(5, 6, is_remote=False)
    shared = sdk_span("session run", 2 * MS, context=run, attributes={"abnn.batch": 8})
    own = SpanContext(1, 3, is_remote=False)
    compute = sdk_span("compute", 2 * MS, context=SpanContext(1, 9, is_remote=False), parent=own, links=[Link(run)])
    expected = as_dict(encode_spans([shared, compute] if is_new else [compute]))
    actual = as_dict(encode([request]))
    for message in (expected, actual):
        del spans_of(message)[-1]["spanId"]  # drawn at random
    assert spans_of(actual)[1:] == spans_of(expected)


def sdk_span(name: str, duration: int, **details: object) -> ReadableSpan:
    service = Resource.create({"service.name": "abnn_serve", "service.version": __version__})
    scope = InstrumentationScope("abnn_serve", __version__)
    end = STARTED + duration
    return ReadableSpan(
        name, resource=service, instrumentation_scope=scope, start_time=STARTED, end_time=end, **details
    )


def as_dict(message: object) -> dict:
    """The message without empty statuses, the attributes of its resource in a fixed order."""
    parsed = MessageToDict(message)
    parsed["resourceSpans"][0]["resource"]["attributes"].sort(key=lambda pair: pair["key"])
    for span in spans_of(parsed):
        if not span.get("status", True):
            del span["status"]
    return parsed


def spans_of(message: dict) -> list[dict]:
    return message["resourceSpans"][0]["scopeSpans"][0]["spans"]
