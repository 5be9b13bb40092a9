"""Connections: slow heads, bad requests, limits under load, and the check of uvicorn at start-up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import uvicorn.config
from PIL import Image
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from abnn_serve.errors import ConfigError
from abnn_serve.service.compatibility import VERSIONS
from abnn_serve.service.connections import check_uvicorn, guard_connections
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import WorkerState
from tests.drawing import draw_shape, png
from tests.service.conftest import start_server
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


def _problem(answer: bytes) -> tuple[int, dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def test_what_is_not_http_is_refused_in_the_same_schema(server):
    assert _problem(_raw(server, b"\x16\x03\x01 hello\r\n\r\n"))[0] == 400
    assert _problem(_raw(server, b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n"))[1]["code"] == "bad_request"


def test_a_head_that_does_not_arrive_is_408_and_one_without_end_is_431(server):
    started = time.monotonic()
    status, error = _problem(_raw(server, b"POST /classify HTTP/1.1\r\nhost: localhost\r\n"))
    assert (status, error["code"]) == (408, "request_timeout")
    assert 0.5 < time.monotonic() - started < 4
    status, error = _problem(_raw(server, b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: " + b"b" * 90_000))
    assert status in (400, 431)


def test_the_rest_of_a_body_that_was_refused_is_no_head_and_may_not_take_for_ever(server):
    url = server.client.base_url
    head = (
        "POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 900000\r\n"
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
    head = f"POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: {len(body)}\r\n"
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
            _post(PICTURE, "x-request-id: mine\r\n")
            + b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
            + _post(PICTURE)
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
        b"GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert _problem(_raw(server, head))[0] == 401


def test_the_installed_uvicorn_passes_the_check_and_looks_up_the_guard(monkeypatch):
    monkeypatch.setattr(auto, "AutoHTTPProtocol", HttpToolsProtocol)
    check_uvicorn()
    guard_connections(ServiceSettings(), WorkerState())
    assert auto.AutoHTTPProtocol.__name__ == "GuardedProtocol"


@pytest.mark.parametrize("hook", ["on_headers_complete", "on_message_begin", "send_400_response", "_should_upgrade"])
def test_a_uvicorn_without_a_hook_is_refused(hook, monkeypatch):
    monkeypatch.delattr(HttpToolsProtocol, hook)
    with pytest.raises(ConfigError, match=rf"uvicorn \S+ is not .*HttpToolsProtocol has no method {hook}; pip install"):
        check_uvicorn()


def test_a_uvicorn_without_an_attribute_is_refused(monkeypatch):
    class Changed(HttpToolsProtocol):
        def __init__(self, **options):
            super().__init__(**options)
            del self.cycle

    monkeypatch.setattr(auto, "AutoHTTPProtocol", Changed)
    with pytest.raises(ConfigError, match="has no attribute cycle"):
        check_uvicorn()


def test_a_uvicorn_with_other_arguments_is_refused(monkeypatch):
    class Changed(HttpToolsProtocol):
        def __init__(self, settings):
            raise NotImplementedError

    monkeypatch.setattr(auto, "AutoHTTPProtocol", Changed)
    with pytest.raises(ConfigError, match="takes other arguments"):
        check_uvicorn()


def test_a_uvicorn_that_looks_up_another_class_is_refused(monkeypatch):
    monkeypatch.setattr(auto, "AutoHTTPProtocol", H11Protocol)
    with pytest.raises(ConfigError, match="it looks up H11Protocol instead of HttpToolsProtocol"):
        check_uvicorn()


def test_a_uvicorn_that_looks_elsewhere_is_refused(monkeypatch):
    monkeypatch.setattr(auto, "AutoHTTPProtocol", HttpToolsProtocol)
    elsewhere = "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol"
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", elsewhere)
    with pytest.raises(ConfigError, match="does not look up"):
        guard_connections(ServiceSettings(), WorkerState())


@pytest.mark.slow
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_the_guard_works_with_the_oldest_and_the_newest_uvicorn(which, bundle, video_bundle, tmp_path, monkeypatch):
    lowest = VERSIONS["uvicorn"].split(",")[0].removeprefix(">=")
    requirement = f"uvicorn=={lowest}.0" if which == "oldest" else f"uvicorn{VERSIONS['uvicorn']}"
    target = tmp_path / "uvicorn"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), requirement]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"needs a package index with {requirement}: {installed.stderr.strip().splitlines()[-1]}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])]))
    shown = [sys.executable, "-c", "import uvicorn; print(uvicorn.__file__)"]
    assert str(target) in subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    for name in ("server", "full", "address", "connections"):
        (tmp_path / name).mkdir()
    with start_server(bundle, video_bundle, tmp_path / "server") as server:
        test_what_is_not_http_is_refused_in_the_same_schema(server)
        test_a_head_that_does_not_arrive_is_408_and_one_without_end_is_431(server)
        test_the_rest_of_a_body_that_was_refused_is_no_head_and_may_not_take_for_ever(server)
        test_a_websocket_is_answered_as_the_request_that_it_also_is(server)
    test_a_full_service_refuses_before_it_reads_and_the_connection_serves_on(bundle, tmp_path / "full")
    test_an_address_that_cannot_be_read_takes_no_place(bundle, tmp_path / "address")
    test_a_connection_past_the_limit_is_told_so_whatever_it_sends(bundle, tmp_path / "connections")
