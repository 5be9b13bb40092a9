"""Spans of requests, as a collector receives them by OTLP."""

from __future__ import annotations

import importlib.util
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from abnn_serve.errors import ConfigError
from abnn_serve.service.batcher import SessionRun
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.tracing.context import TraceContext
from abnn_serve.service.tracing.spans import Spans
from tests.drawing import draw_shape, png
from tests.service.server import serving, wait_until
from tests.service.tracing.otlp import receiving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NOBODY = "http://127.0.0.1:1/v1/traces"
FIELDS = {"method": "GET", "status": 200}
PICTURE = png(draw_shape(2, np.random.default_rng(4)))
EXTRA = importlib.util.find_spec("opentelemetry.exporter") is not None
needs_extra = pytest.mark.skipif(not EXTRA, reason="needs the extra traces")


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://x/", "http://", "http:// x"])
def test_an_endpoint_that_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match="ABNN_OTLP_ENDPOINT is"):
        ServiceSettings.from_environment({"ABNN_OTLP_ENDPOINT": url})


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"needs the extra traces: pip install 'abnn_serve\[traces\]'"):
        Spans("http://localhost:1/v1/traces", 1.0, on_drop=print)


@needs_extra
def test_a_session_run_is_a_trace_of_its_own_that_its_requests_link_to():
    with receiving() as receiver:
        spans = Spans(receiver.url, 1.0, on_drop=print)
        run = SessionRun(started=0.0, seconds=0.01, size=2)
        first, second = spans.new_trace(), spans.new_trace()
        for trace in (first, second):
            spans.record(trace, "/x", {"method": "POST", "status": 200}, 0.0, 0.02, [("compute", 0.0, 0.01, run)])
        spans.close()
        wait_until(lambda: len(receiver.spans) == 5)
    (shared,) = receiver.named("session run")
    assert {pair.key: pair.value.int_value for pair in shared.attributes} == {"abnn.batch": 2}
    links = [link.span_id for span in receiver.named("compute") for link in span.links]
    assert links == [shared.span_id] * 2
    assert {span.trace_id.hex() for span in receiver.named("POST /x")} == {first.trace_id, second.trace_id}
    assert shared.trace_id.hex() not in {first.trace_id, second.trace_id}


@needs_extra
def test_a_collector_that_does_not_answer_does_not_hold_the_shutdown():
    spans = Spans(NOBODY, 1.0, on_drop=print)
    trace = TraceContext(trace_id=TRACE, span_id=PARENT, parent_id=None, flags="01")
    spans.record(trace, "/x", {"method": "GET", "status": 500}, 0.0, 0.0, [])
    started = time.monotonic()
    spans.close()
    assert time.monotonic() - started < 2


@needs_extra
def test_spans_that_a_slow_collector_cannot_take_are_dropped_and_counted():
    dropped: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        spans = Spans(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", 1.0, on_drop=dropped.append)
        for _ in range(4):
            for _ in range(3000):
                spans.record(spans.new_trace(), "/x", FIELDS, 0.0, 0.0, [])
            time.sleep(0.15)
        spans.close()
    assert 0 < sum(dropped) < 12_000


@needs_extra
def test_an_exporter_that_is_killed_is_started_again(monkeypatch):
    monkeypatch.setattr("abnn_serve.service.tracing.spans._RESTART_SECONDS", 0.1)
    dropped: list[int] = []
    with receiving() as receiver:
        spans = Spans(receiver.url, 1.0, on_drop=dropped.append)
        (exporter,) = [p for p in psutil.Process().children() if "tracing.exporter" in " ".join(p.cmdline())]
        exporter.kill()
        for name in ("/lost", "/sent"):
            spans.record(spans.new_trace(), name, FIELDS, 0.0, 0.0, [])
            wait_until(lambda: dropped)
        wait_until(lambda: receiver.named("GET /sent"))
        spans.close()
    assert dropped == [1]


@needs_extra
def test_a_collector_gets_a_request_and_its_stages_under_the_trace_of_the_caller(bundle, tmp_path):
    with (
        receiving() as receiver,
        serving(bundle.path, tmp_path / "log", ABNN_OTLP_ENDPOINT=receiver.url, ABNN_TRACE_SAMPLE="0") as client,
    ):
        pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [9] * 3072}
        sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = client.post("/classify", files={"image": PICTURE}, headers=sent)
        client.post("/v2/models/shapes/infer", json={"inputs": [pixels]}, headers=sent)
        client.post("/classify", files={"image": b"x"}, headers=sent)
        assert "traceparent" not in client.post("/classify", files={"image": PICTURE}).headers  # not sampled
        client.post("/classify", files={"image": PICTURE}, headers={"traceparent": f"00-{'1' * 32}-{PARENT}-00"})
        with ThreadPoolExecutor(8) as pool:
            many = [pool.submit(client.post, "/classify", files={"image": PICTURE}, headers=sent) for _ in range(16)]
        assert {done.result().status_code for done in many} == {200}
        wait_until(lambda: len(receiver.named("POST /classify")) == 18)
        assert {span.trace_id.hex() for span in receiver.spans if span.name != "session run"} == {TRACE}
        assert receiver.resource["service.name"] == "abnn_serve"
        (own,) = [s for s in receiver.spans if s.span_id.hex() == answer.headers["traceparent"].split("-")[2]]
        assert own.parent_span_id.hex() == PARENT
        values = {pair.key: pair.value.string_value or pair.value.int_value for pair in own.attributes}
        assert (values["http.request.method"], values["url.path"]) == ("POST", "/classify")
        assert (values["http.response.status_code"], values["abnn.model"], values["abnn.batch"]) == (200, "shapes", 1)
        stages = {span.name: span for span in receiver.spans if span.parent_span_id == own.span_id}
        assert set(stages) == {"upload", "decode", "queue", "compute"}
        starts = [stages[name].start_time_unix_nano for name in ("upload", "decode", "queue", "compute")]
        assert starts == sorted(starts)
        assert own.start_time_unix_nano - 5_000_000 < starts[0]
        assert stages["compute"].end_time_unix_nano <= own.end_time_unix_nano + 5_000_000
        (link,) = stages["compute"].links
        (run,) = [span for span in receiver.named("session run") if span.span_id == link.span_id]
        assert {pair.key for pair in run.attributes} == {"abnn.batch"}
        assert len(receiver.named("POST /v2/models/{name}/infer", TRACE)) == 1
        keys = [{pair.key for pair in span.attributes} for span in receiver.named("POST /classify")]
        assert sum("error.type" in names for names in keys) == 1
