"""Uvicorn's HTTP protocol with what it lacks: a time limit on a request's head, cheap refusals, our errors."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.datastructures import Headers
from uvicorn.protocols.http import auto

from abnn_serve.service.errors import error_body
from abnn_serve.service.logs import request_id_of
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import State

_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}
_MAX_HEAD_BYTES = 65_536
_LINGER_SECONDS = 1.0  # in which a refused client may go on sending: closed at once, it would not see why


class _Guard(asyncio.Protocol):
    """Comes before uvicorn's protocol class, of whichever parser."""

    max_connections: int
    header_seconds: float
    service: State
    connections: set[Any]
    parser: Any
    scope: dict[str, Any]
    url: bytes = b""
    headers: list[tuple[bytes, bytes]] | None = None
    cycle: Any
    transport: asyncio.Transport
    _head: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _body = False
    _skipped = False  # the request at hand is refused, and read only to find the next one
    _answered = False
    _closing = False
    expect_100_continue = False
    conn: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > 2 * self.max_connections:
            transport.abort()  # type: ignore[attr-defined]
        elif len(self.connections) > self.max_connections:
            self._refuse(503, "busy", f"{self.max_connections} connections are open, which is the limit")
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        body = self._in_body()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
            return
        if self._skipped and not self._in_body():
            self._rest()
            self._watch()
            return
        self._watch()
        if not body and not self._in_body():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431, "head_too_large", f"the request's head exceeds {_MAX_HEAD_BYTES:,} bytes")

    def on_message_begin(self) -> None:
        self._skipped = False
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._body = True
        idle = self.cycle is None or self.cycle.response_complete
        post = idle and self.parser.get_method() == b"POST"
        self._skipped = post and self.service.gate.full
        if self._skipped:
            stays = self.parser.should_keep_alive() and not self.expect_100_continue
            message = "as many requests as may be are being answered; try again in a second"
            self._refuse(503, "busy", message, close=not stays)
            return
        super().on_headers_complete()  # type: ignore[misc]
        if post:  # its address could be read, so that `Edge` will begin with it
            self.service.gate.entering += 1
            self.scope["state"]["entering"] = True

    def on_body(self, body: bytes) -> None:
        if not self._skipped:
            super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        self._body = False
        if not self._skipped:
            super().on_message_complete()  # type: ignore[misc]

    def _in_body(self) -> bool:
        """Of a request that was answered before all of it was there; `conn` is h11's, the flag httptools'."""
        return self._body if self.conn is None else self.conn.their_state is h11.SEND_BODY

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", f"not HTTP: {msg.lower().rstrip('.')}")

    def _should_upgrade(self) -> bool:
        return False  # a websocket is answered as the plain request that it also is

    def _unsupported_upgrade_warning(self) -> None:
        pass

    def _watch(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = asyncio.get_running_loop().call_later(self.header_seconds, self._late)

    def _rest(self) -> None:
        self._head_bytes = 0
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        self._head = None
        if self._in_body() or ((self._answered or self.cycle is not None) and not self._head_bytes):
            self.transport.close()  # it was answered, and asks for nothing
        else:
            late = f"the request's head did not arrive in {self.header_seconds} seconds"
            self._refuse(408, "request_timeout", late)

    def _refuse(self, status: int, code: str, message: str, *, close: bool = True) -> None:
        """Answer without the application, at a fraction of its cost."""
        if self._closing or self.transport.is_closing():
            return
        self._answered = True
        self.service.metrics.rejects.labels(code).inc()
        self.service.metrics.requests.labels("other", status).inc()
        request_id = request_id_of(Headers(raw=self.headers or []))
        body = error_body(code, message, None, request_id, self.url.decode("latin-1"))
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n%s%s\r\n"
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        last = b"connection: close\r\n" if close else b""
        self.transport.write(head % (status, _REASONS[status], len(body), request_id.encode(), retry, last) + body)
        if close:
            self._closing = True
            self._rest()
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.transport.close)


def guard_connections(limits: ServiceSettings, state: State) -> None:
    """Put the guard in the place where BentoML's workers, which take no such options, look the protocol up."""
    options = {"max_connections": limits.max_connections, "header_seconds": limits.header_seconds, "service": state}
    auto.AutoHTTPProtocol = type("GuardedProtocol", (_Guard, auto.AutoHTTPProtocol), options)
