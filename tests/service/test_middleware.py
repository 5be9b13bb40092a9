"""The middleware: API keys, request ids, the log, metrics and the error schema."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import numpy as np
import pytest

from abnn_serve.service.app import create_app
from abnn_serve.service.auth import SECONDS
from abnn_serve.service.key_file import KeyTerms, new_key
from abnn_serve.service.middleware import RequestMiddleware
from abnn_serve.service.worker import WorkerState
from tests.drawing import draw_shape, png
from tests.service.conftest import Server

PICTURE = png(draw_shape(1, np.random.default_rng(3), 50))


def _logged(server, request_id: str) -> list[dict]:
    """The log's lines of one request; they are written after its answer."""
    for _ in range(100):
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        if found := [line for line in lines if line.get("request_id") == request_id]:
            return found
        time.sleep(0.05)
    return []


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer nix"}, {"x-api-key": "é"}, {"authorization": "Basic x"}]
)
def test_without_a_known_key_nothing_is_answered_but_health_and_the_page(server, headers):
    url = str(server.client.base_url)
    for method, path in [("POST", "/classify"), ("GET", "/model"), ("GET", "/metrics"), ("GET", "/nothing")]:
        refused = httpx.request(method, url + path, headers={k: v.encode() for k, v in headers.items()})
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "unauthorized"
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/livez", "/readyz", "/healthz"):
        assert httpx.get(url + path).status_code == 200


def _write_keys(server: Server, text: str) -> None:
    server.key_file.write_text(text)
    time.sleep(SECONDS)


def test_a_key_that_is_added_or_removed_counts_without_a_restart(server):
    key, line = new_key("another")
    before = server.key_file.read_text()
    url = f"{server.client.base_url}/model"
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 401
    _write_keys(server, f"{before}{line}\n")
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 200
    _write_keys(server, f"{before}{line}\nnonsense\n")
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 200
    _write_keys(server, before)
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 401


def test_a_key_beyond_its_limit_is_429_with_the_time_to_wait_and_others_are_not(server):
    key, line = new_key("limited", KeyTerms(requests=2, megabytes=1))
    before = server.key_file.read_text()
    _write_keys(server, f"{before}{line}\n")
    url, headers = f"{server.client.base_url}/classify", {"x-api-key": key}
    answers = [httpx.post(url, headers=headers, files={"image": PICTURE}) for _ in range(3)]
    _write_keys(server, before)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == (
        '"requests";q=2;w=60;qu="requests", "content-bytes";q=1000000;w=60;qu="content-bytes"'
    )
    assert [answer.headers["ratelimit"].split(";t=")[0] for answer in answers] == [
        '"requests";r=1',
        '"requests";r=0',
        '"requests";r=0',
    ]
    body_left = int(answers[1].headers["ratelimit"].split('"content-bytes";r=')[1].split(";")[0])
    assert 0 < 1_000_000 - body_left <= 2 * (len(PICTURE) + 300)
    error = answers[2].json()["error"]
    assert (error["code"], error["field"]) == ("too_many_requests", None)
    assert 25 <= int(answers[2].headers["retry-after"]) <= 30
    assert "ratelimit" not in server.client.get("/model").headers


def test_every_log_line_is_json_and_a_requests_line_has_its_id_and_no_picture(server):
    server.client.post("/classify?top_k=1", files={"image": PICTURE}, headers={"x-request-id": "find-me"})
    (line,) = _logged(server, "find-me")
    assert (line["method"], line["path"], line["status"], line["key"]) == ("POST", "/classify", 200, "tests")
    assert {"upload_ms", "decode_ms", "queue_ms", "compute_ms", "batch", "model"} <= set(line)
    assert len(json.dumps(line)) < 1000


def test_metrics_name_the_model_the_stages_and_the_causes_of_refusals_but_no_path_that_a_client_made_up(server):
    for path in ("/page/page.js", "/made-up-by-a-client", "/v2/models/shapes"):
        server.client.get(path)
    for data in (PICTURE, b"nix"):
        server.client.post("/classify", files={"image": data})
    assert server.client.get("/classify").status_code == 405
    shown = server.client.get("/metrics").text
    digest = server.client.get("/model").json()["digest"]
    assert f'abnn_model_info{{digest="{digest}",name="shapes",precision="fp32",provider="CPUExecutionProvider"' in shown
    assert 'abnn_rejects_total{code="unsupported_format"}' in shown
    for series in ("abnn_batch_size_bucket", 'stage="queue"', 'stage="compute"', "abnn_run_seconds_sum"):
        assert series in shown
    for labels in (
        'endpoint="/classify",status="415"',
        'endpoint="/classify",status="405"',
        'endpoint="/v2/models/{name}",status="200"',
        'endpoint="/page",status="200"',
        'endpoint="other",status="404"',
    ):
        assert f"abnn_requests_total{{{labels}}}" in shown
    assert "made-up" not in shown


def test_no_answer_says_what_software_runs_here(client):
    for answer in (client.get("/livez"), client.get("/nothing"), client.post("/classify", content=b"x")):
        assert "server" not in answer.headers
        assert not {"bentoml", "uvicorn", "starlette", "traceback"} & set(answer.text.lower().split())


@pytest.mark.parametrize(("path", "flat"), [("/classify", False), ("/v2/models/shapes/infer", True)])
def test_a_failure_of_ours_is_500_in_the_same_schema_and_says_what_it_was_to_the_log_alone(bundle, caplog, path, flat):
    state = WorkerState()
    state.app = create_app(state)
    state.load({"ABNN_BUNDLE": str(bundle.path), "ABNN_THREADS": "1"})
    state.stop()  # its threads are gone: nothing can be decoded

    async def ask() -> httpx.Response:
        through = httpx.ASGITransport(RequestMiddleware(state.app, state))
        async with httpx.AsyncClient(transport=through, base_url="http://x", headers={"x-request-id": "a-1"}) as client:
            return await client.post(path, content=PICTURE, headers={"content-type": "image/png"})

    answer = asyncio.run(ask())
    facts = answer.json() if flat else answer.json()["error"]
    assert answer.status_code == 500
    assert (facts["code"], facts["field"], facts["request_id"]) == ("internal_error", None, "a-1")
    assert answer.headers["x-request-id"] == "a-1"
    assert not {"shutdown", "Traceback", "futures"} & set(answer.text.split())
    assert "cannot schedule new futures after shutdown" in caplog.text
    assert b'abnn_rejects_total{code="internal_error"} 1.0' in state.metrics.exposition()[0]
