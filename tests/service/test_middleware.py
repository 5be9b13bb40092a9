"""What every request passes: keys, ids, the log, metrics, and connections that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from abnn_serve.service.app import create_app
from abnn_serve.service.auth import new_key
from abnn_serve.service.middleware import RequestMiddleware
from abnn_serve.service.worker import WorkerState
from tests.drawing import draw_shape, png
from tests.service.server import serving, wait_until

PICTURE = png(draw_shape(1, np.random.default_rng(3), 50))


def _raw(server, data: bytes, seconds: float = 5.0) -> bytes:
    """What the server answers to bytes on a socket, until it closes the connection."""
    url = server.client.base_url
    with socket.create_connection((url.host, url.port), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def _logged(server, request_id: str) -> list[dict]:
    """The log's lines of one request; they are written after its answer."""
    for _ in range(100):
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        if found := [line for line in lines if line.get("request_id") == request_id]:
            return found
        time.sleep(0.05)
    return []


def _problem(answer: bytes) -> tuple[int, dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


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


def test_a_key_that_is_added_or_removed_counts_without_a_restart(server):
    key, line = new_key("another")
    before = server.key_file.read_text()
    url = f"{server.client.base_url}/model"
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 401
    server.key_file.write_text(f"{before}{line}\n")
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 200
    server.key_file.write_text(f"{before}{line}\nnonsense\n")
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 200
    server.key_file.write_text(before)
    assert httpx.get(url, headers={"x-api-key": key}).status_code == 401


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


def test_what_is_not_http_is_refused_in_the_same_schema(server):
    assert _problem(_raw(server, b"\x16\x03\x01 hello\r\n\r\n"))[0] == 400
    assert _problem(_raw(server, b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n"))[1]["code"] == "bad_request"


def test_a_head_that_does_not_arrive_is_408_and_one_without_end_is_431(server):
    started = time.monotonic()
    status, error = _problem(_raw(server, b"POST /classify HTTP/1.1\r\nhost: x\r\n"))
    assert (status, error["code"]) == (408, "request_timeout")
    assert 0.5 < time.monotonic() - started < 4
    status, error = _problem(_raw(server, b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 90_000))
    assert status in (400, 431)


def test_the_rest_of_a_body_that_was_refused_is_no_head_and_may_not_take_for_ever(server):
    url = server.client.base_url
    head = (
        "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 900000\r\n"
        f"authorization: {server.client.headers['authorization']}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 413")
        connection.sendall(bytes(200_000))
        started = time.monotonic()
        assert connection.recv(65_536) == b""
        assert time.monotonic() - started < 5


def _answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and head of `count` answers on a connection that stays open."""
    found, received = [], b""
    while len(found) < count:
        head, ended, rest = received.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if ended else 0
        if ended and len(rest) >= length:
            found.append((int(head.split()[1]), head))
            received = rest[length:]
        else:
            received += connection.recv(65_536) or pytest.fail(f"the connection was closed after {received[:200]!r}")
    return found


def _post(body: bytes, headers: str = "") -> bytes:
    head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def test_a_full_service_refuses_before_it_reads_and_the_connection_serves_on(bundle, tmp_path):
    slow = png(Image.new("RGB", (5000, 5000)))  # decoded in tenths of a second, one at a time
    limits = {"ABNN_MAX_QUEUE": "2", "ABNN_MAX_PARTS": "2"}
    with serving(bundle.path, tmp_path / "log", **limits) as client, contextlib.ExitStack() as stack:
        place = (client.base_url.host, client.base_url.port)
        refused, late, *others = (stack.enter_context(socket.create_connection(place, timeout=30)) for _ in range(4))
        for connection in others:
            connection.sendall(_post(slow))
        wait_until(lambda: b"abnn_requests_inside 2.0" in client.get("/metrics").content)
        refused.sendall(
            _post(PICTURE, "x-request-id: mine\r\n") + b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" + _post(PICTURE)
        )
        statuses, heads = zip(*_answers(refused, 3), strict=True)
        assert statuses == (503, 200, 503)
        assert b"retry-after: 1" in heads[0]
        assert b"x-request-id: mine" in heads[0]
        assert b"connection: close" not in heads[0]
        late.sendall(_post(bytes(90_000), "expect: 100-continue\r\n"))  # it may send the body, or the next request
        assert b"connection: close" in _answers(late, 1)[0][1]
        assert late.recv(10) == b""
        assert [_answers(connection, 1)[0][0] for connection in others] == [200, 200]
        refused.sendall(_post(PICTURE))
        assert _answers(refused, 1)[0][0] == 200
        assert b'abnn_rejects_total{code="busy"} 3.0' in client.get("/metrics").content


def test_an_address_that_cannot_be_read_takes_no_place(bundle, tmp_path):
    with serving(bundle.path, tmp_path / "log", ABNN_MAX_QUEUE="2", ABNN_MAX_PARTS="2") as client:
        place = (client.base_url.host, client.base_url.port)
        for _ in range(4):
            with socket.create_connection(place, timeout=10) as connection:
                connection.sendall(_post(PICTURE).replace(b"/classify", b"http://["))
                assert _answers(connection, 1)[0][0] == 400
        assert client.post("/classify", files={"image": PICTURE}).status_code == 200


def test_a_connection_past_the_limit_is_told_so_whatever_it_sends(bundle, tmp_path):
    with serving(bundle.path, tmp_path / "log", ABNN_MAX_CONNECTIONS="4") as client, contextlib.ExitStack() as stack:
        place = (client.base_url.host, client.base_url.port)
        kept = [stack.enter_context(socket.create_connection(place, timeout=10)) for _ in range(4)]
        time.sleep(0.2)
        refused = stack.enter_context(socket.create_connection(place, timeout=10))
        refused.sendall(_post(bytes(300_000)))
        assert _answers(refused, 1)[0][0] == 503
        assert refused.recv(10) == b""
        kept[0].sendall(_post(PICTURE))
        assert _answers(kept[0], 1)[0][0] == 200


def test_a_websocket_is_answered_as_the_request_that_it_also_is(server):
    head = (
        b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert _problem(_raw(server, head))[0] == 401
