"""Connection limits that uvicorn lacks: a time and size limit on request heads, and cheap rejections under load.

BentoML's workers take no uvicorn options, so `guard_connections` replaces the protocol class that uvicorn looks up. It
relies on uvicorn's internals: `compatibility.py` has the allowed versions, the tests run the oldest and the newest of
them, and `check_uvicorn` fails at start-up if those internals have changed.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from uvicorn.protocols.http import auto as uvicorn_auto
from uvicorn.server import ServerState

from abnn_serve.service.admission import full_message
from abnn_serve.service.compatibility import incompatible
from abnn_serve.service.errors import error_body
from abnn_serve.service.logs import request_id_of
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import WorkerState

_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}
_MAX_HEAD_BYTES = 65_536
_LINGER_SECONDS = 1.0  # a client that is still sending would not see the response if the socket closed at once

_HOOKS = (
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "send_400_response",
    "_should_upgrade",
    "_unsupported_upgrade_warning",
)
_ATTRIBUTES = ("connections", "cycle", "expect_100_continue", "headers", "parser", "scope", "transport")


class _Phase(Enum):
    """What a connection does next."""

    HEAD = auto()  # reads a request head, or waits for the first one
    BODY = auto()  # reads the body of a request that the application handles
    REJECTED_BODY = auto()  # skips the body of a request that was rejected
    IDLE = auto()  # waits for the next request
    CLOSING = auto()  # ignores what the client still sends


class _GuardedProtocol(asyncio.Protocol):
    """Mixed in before uvicorn's HttpToolsProtocol."""

    max_connections: int
    header_seconds: float
    service: WorkerState
    connections: set[Any]
    cycle: Any
    expect_100_continue: bool
    headers: list[tuple[bytes, bytes]] | None
    parser: Any
    scope: dict[str, Any]
    transport: asyncio.Transport
    url: bytes = b""
    _phase = _Phase.HEAD
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > 2 * self.max_connections:
            transport.abort()  # type: ignore[attr-defined]
        elif len(self.connections) > self.max_connections:
            self._reject(
                503, "busy", f"{self.max_connections} connections are open, which is the limit; retry after 1 s"
            )
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.CLOSING:
            return
        phase_before = self._phase
        super().data_received(data)
        if self._in_flight():
            self._stop_timer()
            return
        self._start_timer()
        if self._phase is _Phase.HEAD and phase_before in (_Phase.HEAD, _Phase.IDLE):
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._reject(431, "head_too_large", f"the request head exceeds the limit of {_MAX_HEAD_BYTES:,} bytes")

    def on_message_begin(self) -> None:
        if self._phase is not _Phase.CLOSING:
            self._phase = _Phase.HEAD
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        if self._phase is _Phase.CLOSING:
            return
        is_post = not self._in_flight() and self.parser.get_method() == b"POST"
        if is_post and self.service.admission.is_full:
            self._phase = _Phase.REJECTED_BODY
            keep_alive = self.parser.should_keep_alive() and not self.expect_100_continue
            self._reject(503, "busy", full_message(self.service.admission.max_requests), close=not keep_alive)
            return
        self._phase = _Phase.BODY
        super().on_headers_complete()  # type: ignore[misc]
        if is_post:  # uvicorn has parsed the URL, so RequestMiddleware will see the request and uncount it
            self.service.admission.pending += 1
            self.scope["state"]["pending"] = True

    def on_body(self, body: bytes) -> None:
        if self._phase is _Phase.BODY:
            super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        if self._phase is _Phase.BODY:
            super().on_message_complete()  # type: ignore[misc]
        if self._phase is not _Phase.CLOSING:
            self._phase = _Phase.IDLE
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        self._reject(400, "bad_request", f"not a valid HTTP request: {msg.lower().rstrip('.')}")

    def _should_upgrade(self) -> bool:
        return False  # a WebSocket handshake is answered as a plain request

    def _unsupported_upgrade_warning(self) -> None:
        pass

    def _in_flight(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(self.header_seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._phase is _Phase.HEAD:
            self._reject(408, "request_timeout", f"the request head did not arrive within {self.header_seconds} s")
        else:
            self.transport.close()  # the client has its response

    def _reject(self, status: int, code: str, message: str, *, close: bool = True) -> None:
        """Send an error response without running the application, at a fraction of its cost."""
        if self._phase is _Phase.CLOSING or self.transport.is_closing():
            return
        self.service.metrics.rejects.labels(code).inc()
        self.service.metrics.requests.labels("other", status).inc()
        request_id = request_id_of(Headers(raw=self.headers or []))
        body = error_body(code, message, None, request_id, self.url.decode("latin-1"))
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n%s%s\r\n"
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        connection = b"connection: close\r\n" if close else b""
        self.transport.write(
            head % (status, _REASONS[status], len(body), request_id.encode(), retry, connection) + body
        )
        if close:
            self._phase = _Phase.CLOSING
            self._stop_timer()
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.transport.close)


def guard_connections(limits: ServiceSettings, state: WorkerState) -> None:
    """Make uvicorn use the guarded protocol in this process.

    Raises:
        ConfigError: the installed uvicorn is not compatible.
    """
    check_uvicorn()
    options = {"max_connections": limits.max_connections, "header_seconds": limits.header_seconds, "service": state}
    protocol = type("GuardedProtocol", (_GuardedProtocol, _looked_up_protocol()), options)
    uvicorn_auto.AutoHTTPProtocol = protocol
    if _looked_up_protocol() is not protocol:
        raise incompatible("uvicorn", "it does not look up uvicorn.protocols.http.auto.AutoHTTPProtocol")


def check_uvicorn() -> None:
    """Check that uvicorn looks up a protocol class with every hook and attribute that the guard uses.

    Raises:
        ConfigError: it does not.
    """
    protocol: Any = _looked_up_protocol()
    if not issubclass(protocol, getattr(uvicorn_auto, "HttpToolsProtocol", ())):
        raise incompatible(
            "uvicorn", f"it looks up {protocol.__name__} instead of HttpToolsProtocol, which needs httptools"
        )
    if missing := [name for name in _HOOKS if not callable(getattr(protocol, name, None))]:
        raise incompatible("uvicorn", f"its HttpToolsProtocol has no method {missing[0]}")
    loop = asyncio.new_event_loop()
    try:
        instance = protocol(config=_config(), server_state=ServerState(), app_state={}, _loop=loop)
    except TypeError as error:
        raise incompatible("uvicorn", f"its HttpToolsProtocol takes other arguments: {error}") from error
    finally:
        loop.close()
    if missing := [name for name in _ATTRIBUTES if not hasattr(instance, name)]:
        raise incompatible("uvicorn", f"its HttpToolsProtocol has no attribute {missing[0]}")


def _looked_up_protocol() -> type[asyncio.Protocol]:
    return _config().http_protocol_class


def _config() -> uvicorn.Config:
    config = uvicorn.Config(_no_app, log_config=None)
    config.load()
    return config


async def _no_app(_scope: object, _receive: object, _send: object) -> None:
    """Stands for the application, which the check never calls."""
