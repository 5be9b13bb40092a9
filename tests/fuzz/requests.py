"""Targets of the service: tensors in JSON, multipart forms, and bytes on a connection."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import uvicorn
from starlette.requests import Request
from uvicorn.protocols.http import auto as uvicorn_auto
from uvicorn.server import ServerState

from abnn_serve.service.admission import Admission, UploadBytes
from abnn_serve.service.connections import guard_connections
from abnn_serve.service.endpoints.v2_tensors import read_infer
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.upload import UploadSpec, read_upload
from abnn_serve.service.worker import WorkerState

SHAPE = (2, 2, 3)
JSON_TOKENS = (b"[", b"{", b'"', b"\\", b"1e999", b"NaN", b"null", b"9" * 400, b'"data":', b"\\ud800", b",", b"[[")
FORM_TOKENS = (
    b"\r\n--x",
    b"--x--",
    b"\r\n\r\n",
    b"Content-Disposition: form-data; ",
    b'name="image"',
    b"filename=",
    b"\n",
)
HEAD_TOKENS = (
    *(b"\r\n", b"\n", b"\r\n\r\n", b" HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"),
    *(b"0\r\n", b"a:b\r\n", b"GET / HTTP/1.1\r\n\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"\0"),
)


def read_json(data: bytes) -> object:
    """Read a v2 request; what follows the first line break, if any, is binary data."""
    head, separator, _ = data.partition(b"\n\n")
    return read_infer(data, str(len(head)) if separator else None, SHAPE, 4, "image")


def json_seeds() -> list[bytes]:
    """Requests of the protocol, and text in the place of numbers (S1)."""
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, *SHAPE], "data": list(range(12))}
    binary = {**tensor, "data": [], "parameters": {"binary_data_size": 14}}
    texts = {**tensor, "data": ["x" * 2_000, *[""] * 2_000]}
    nested = {**tensor, "data": [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]]}
    outputs = {"id": "a", "inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    values = [{"inputs": [value]} for value in (tensor, texts, nested)] + [outputs]
    return [json.dumps(value).encode() for value in values] + [
        json.dumps({"inputs": [binary]}).encode() + b"\n\n" + bytes(12)
    ]


def read_form(data: bytes) -> object:
    """Read a multipart form whose boundary is x, in chunks as they would arrive."""
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}, receive)
    spec = UploadSpec(field="image", media_type="image", max_bytes=100_000, seconds=5, max_files=4)
    return _loop().run_until_complete(read_upload(request, spec, UploadBytes(_admission())))


def form_seeds() -> list[bytes]:
    """Forms as clients send them, and one of boundaries alone (S9)."""
    file = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    text = b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n'
    long = b"--x\r\n" + b"A: b\r\n" * 200 + b"\r\n\r\n--x--\r\n"
    return [file + bytes(100) + b"\r\n--x--\r\n", text + file + b"\r\n--x\r\n" * 4, b"\r\n--x" * 8_000, long]


def read_connection(data: bytes) -> object:
    """Feed a connection of the guarded protocol, and check that what it writes is HTTP."""
    return _loop().run_until_complete(_feed(data))


def head_seeds() -> list[bytes]:
    """Requests, pipelined ones (S6), endless trailers (S7) and heads that are too long."""
    chunked = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n" * 500,
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        chunked + b"5\r\nhello\r\n0\r\n\r\n",
        chunked + b"0\r\n" + b"a:b\r\n" * 5_000,
        chunked + b"5;a=b\r\nhello\r\n0\r\nX-API-Key: k\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 60_000,
    ]


class _Transport(asyncio.Transport):
    """The operating system's side of a connection, which keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def _feed(data: bytes) -> None:
    config = _config()  # which replaces the protocol
    protocol = uvicorn_auto.AutoHTTPProtocol(
        config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop()
    )
    transport = _Transport()
    protocol.connection_made(transport)
    size = max(1, len(data) // 3)
    for at in range(0, len(data), size):
        protocol.data_received(data[at : at + size])
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    assert transport.written[:7] in (b"", b"HTTP/1."), bytes(transport.written[:80])
    assert transport.written.count(b"HTTP/1.1 5") == transport.written.count(b"HTTP/1.1 503"), "a server error"


async def _app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while scope["type"] == "http" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@functools.cache
def _admission() -> Admission:
    return Admission(256, 128_000_000)


@functools.cache
def _config() -> uvicorn.Config:
    state = WorkerState()
    state.limits, state.metrics, state.admission = ServiceSettings(), Metrics(workers=1), _admission()
    guard_connections(state.limits, state)
    config = uvicorn.Config(_app, log_config=None)
    config.load()
    return config
