"""Connections: slow heads, bad requests, limits under load, and the check of uvicorn at start-up."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
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
from tests.service.server import serving, serving_process, wait_until

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
    for endless in (b"a: " + b"b" * 90_000, b"a:b\r\n" * 102, (b"a:" + b"b" * 1000 + b"\r\n") * 70):
        status, error = _problem(_raw(server, b"GET / HTTP/1.1\r\nhost: localhost\r\n" + endless))
        assert (status, error["code"]) == (431, "head_too_large")
    assert _problem(_raw(server, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n"))[0] == 431


LIVE = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"


def _statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def test_a_few_requests_may_wait_behind_one_and_with_more_the_connection_ends(server):
    url = server.client.base_url
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(LIVE * 9)
        assert [status for status, _ in _answers(connection, 9)] == [200] * 9
        connection.sendall(LIVE * 3)
        assert [status for status, _ in _answers(connection, 3)] == [200] * 3
    assert _statuses(_raw(server, LIVE * 2000)) == [200] * 9 + [400]


def test_what_is_malformed_is_answered_after_the_requests_before_it(server):
    for rest, status in ((b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 102, 431)):
        assert _statuses(_raw(server, LIVE * 2 + rest)) == [200, 200, status]


def test_a_body_that_becomes_malformed_is_answered_once_and_takes_no_place(server):
    head = _post(b"", f"authorization: {server.client.headers['authorization']}\r\n").partition(b"content-length")
    chunked = head[0] + b"transfer-encoding: chunked" + head[2][3:].replace(b": 0", b"", 1)
    for body in (b"5\r\nabcde\r\nnonsense\r\n", b"1\r\na\r\n" * 40_000, b"1;" + b"a" * 200_000):
        with socket.create_connection((server.client.base_url.host, server.client.base_url.port), timeout=10) as raw:
            raw.sendall(chunked)
            time.sleep(0.1)  # the application waits for the body
            with contextlib.suppress(OSError):
                for start in range(0, len(body), 20_000):
                    raw.sendall(body[start : start + 20_000])
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := raw.recv(65_536):
                    answer += part
        assert _statuses(answer) == [400]
    assert b"abnn_requests_inside 0.0" in server.client.get("/metrics").content


def test_a_key_in_a_trailer_admits_nobody_and_trailers_have_no_other_effect(server):
    key = f"authorization: {server.client.headers['authorization']}\r\n".encode()
    chunked = b"transfer-encoding: chunked\r\n"
    answer = _raw(
        server,
        b"GET /model HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + chunked + b"\r\n0\r\n" + key + b"\r\n",
    )
    assert _problem(answer)[0] == 401
    head = b"GET /models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + key + chunked
    assert _statuses(_raw(server, head + b"\r\n0\r\nx-request-id: trailer\r\n\r\n")) == [200]
    assert b"trailer" not in _raw(server, head + b"\r\n0\r\nx-request-id: trailer\r\n\r\n")


def _send_again_and_again(connection: socket.socket, data: bytes) -> None:
    for _ in range(400):
        connection.sendall(data)
        time.sleep(0.005)


def test_trailers_without_end_close_the_connection(server):
    url = server.client.base_url
    for endless in (b"a:b\r\n" * 4000, b"a:" + b"b" * 16_000):
        with socket.create_connection((url.host, url.port), timeout=10) as connection:
            connection.sendall(LIVE[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n")
            with pytest.raises(OSError, match=r"reset|pipe"):
                _send_again_and_again(connection, endless)


def test_a_second_head_is_limited_while_the_first_request_is_in_work(server):
    url = server.client.base_url
    head = _post(b"", f"authorization: {server.client.headers['authorization']}\r\n").replace(
        b"length: 0", b"length: 9"
    )
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(head + b"no image!" + LIVE[:-2] + b"a: ")
        with pytest.raises(OSError, match=r"reset|pipe"):
            _send_again_and_again(connection, b"b" * 16_000)


def test_the_rest_of_a_request_that_asks_for_an_upgrade_is_read(server):
    answer = _raw(server, LIVE[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n" + LIVE + b"nonsense\r\n\r\n")
    assert _statuses(answer) == [200, 200, 400]


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
    limits = {"ABNN_MAX_QUEUE": "2", "ABNN_MAX_PARTS": "2", "ABNN_HEADER_SECONDS": "60"}
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
    limits = {"ABNN_MAX_CONNECTIONS": "4", "ABNN_MAX_CONNECTIONS_PER_ADDRESS": "4"}
    with serving(bundle.path, tmp_path / "log", **limits) as client, contextlib.ExitStack() as stack:
        place = (client.base_url.host, client.base_url.port)
        kept = [stack.enter_context(socket.create_connection(place, timeout=10)) for _ in range(4)]
        time.sleep(0.2)
        refused = stack.enter_context(socket.create_connection(place, timeout=10))
        refused.sendall(_post(bytes(300_000)))
        assert _answers(refused, 1)[0][0] == 503
        assert refused.recv(10) == b""
        kept[0].sendall(_post(PICTURE))
        assert _answers(kept[0], 1)[0][0] == 200


def test_clients_that_do_not_read_are_dropped_and_an_address_has_its_share_of_connections(bundle, tmp_path):
    limits = {"ABNN_MAX_CONNECTIONS_PER_ADDRESS": "6", "ABNN_WRITE_SECONDS": "1", "ABNN_DEADLINE_SECONDS": "2"}
    limits["ABNN_HEADER_SECONDS"] = "60"
    with (
        serving_process(bundle.path, tmp_path / "log", **limits) as (client, process),
        contextlib.ExitStack() as stack,
    ):
        place = (client.base_url.host, client.base_url.port)
        others = [stack.enter_context(socket.create_connection(place, timeout=10)) for _ in range(5)]
        refused = stack.enter_context(socket.create_connection(place, timeout=10))
        assert b"6 connections are open from this address" in refused.recv(65_536)
        unread = others[:3]
        for connection in unread:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            _ask_and_never_read(connection)
        wait_until(lambda: _are_answered(place, 3))
        assert client.get("/livez").elapsed.total_seconds() < 0.5
        last = others[3]
        last.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _ask_and_never_read(last)
        others[4].sendall(_post(bytes(90_000))[:50_000])  # an upload that never ends
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert _answers(others[4], 1)[0][0] == 503
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - started < 1 + 2 + 1 + 2  # drain, deadline, a second; and a busy machine


def _are_answered(place: tuple[str, int], count: int) -> bool:
    """Whether so many further connections may be open at once."""
    with contextlib.ExitStack() as stack:
        new = [stack.enter_context(socket.create_connection(place, timeout=10)) for _ in range(count)]
        for connection in new:
            connection.sendall(LIVE)
        return all(connection.recv(65_536).startswith(b"HTTP/1.1 200") for connection in new)


def _ask_and_never_read(connection: socket.socket) -> None:
    """Ask for 4 MB in a few requests at a time, so that the answers fill every buffer on their way."""
    with contextlib.suppress(OSError):
        for _ in range(100):
            connection.sendall(b"GET /page/page.js HTTP/1.1\r\nhost: localhost\r\n\r\n" * 4)
            time.sleep(0.005)


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


@pytest.mark.parametrize("hook", ["on_headers_complete", "on_message_begin", "on_response_complete", "_should_upgrade"])
def test_a_uvicorn_without_a_hook_is_refused(hook, monkeypatch):
    monkeypatch.setattr(auto, "AutoHTTPProtocol", HttpToolsProtocol)  # another test may have installed the guard
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
