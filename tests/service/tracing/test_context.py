from __future__ import annotations

import json

import numpy as np
import pytest
from starlette.datastructures import Headers

from abnn_serve.service.tracing.context import trace_of
from tests.drawing import draw_shape, png
from tests.service.server import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PICTURE = png(draw_shape(2, np.random.default_rng(4)))


def _trace(text: str):
    return trace_of(Headers({"traceparent": text}))


def test_a_trace_keeps_its_id_and_flags_and_gets_a_new_span():
    trace, again = _trace(f"00-{TRACE}-{PARENT}-01"), _trace(f"00-{TRACE}-{PARENT}-01")
    assert (trace.trace_id, trace.parent_id, trace.flags) == (TRACE, PARENT, "01")
    assert len({trace.span_id, again.span_id, PARENT}) == 3
    assert trace.traceparent == f"00-{TRACE}-{trace.span_id}-01"


def test_a_later_version_with_more_fields_is_read_as_the_first():
    assert _trace(f"cc-{TRACE}-{PARENT}-00-what-the-future-holds").trace_id == TRACE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"cc-{TRACE}-{PARENT}-00-{'x' * 300}",
    ],
)
def test_an_invalid_traceparent_is_ignored(text):
    assert _trace(text) is None


@pytest.mark.parametrize("path", ["/classify", "/v2/models/shapes/infer"])
def test_the_trace_of_a_request_is_in_its_response_and_its_log_line(server, path):
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": f"traced{path.replace('/', '-')}"}
    answer = server.client.post(path, headers=sent, files={"image": PICTURE})
    _, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
    assert (trace_id, flags) == (TRACE, "01")
    wait_until(lambda: sent["x-request-id"] in server.log.read_text())
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == sent["x-request-id"] and "status" in line]
    assert (line["trace_id"], line["span_id"], line["parent_id"]) == (TRACE, span_id, PARENT)


def test_a_request_without_a_trace_gets_none(server):
    answer = server.client.post("/classify", files={"image": PICTURE}, headers={"x-request-id": "untraced"})
    assert "traceparent" not in answer.headers
    wait_until(lambda: "untraced" in server.log.read_text())
    (line,) = [line for line in server.log.read_text().splitlines() if '"untraced"' in line and '"status"' in line]
    assert "trace_id" not in line
