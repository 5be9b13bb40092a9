"""Uvicorn's HTTP protocol with what it lacks: a time limit on a request's head, a cap on connections, our errors."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import h11
from uvicorn.protocols.http import auto

from abnn_serve.service.errors import error_body
from abnn_serve.service.settings import ServiceSettings

_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}
_MAX_HEAD_BYTES = 65_536


class _Guard(asyncio.Protocol):
    """Comes before uvicorn's protocol class, of whichever parser."""

    max_connections: int
    header_seconds: float
    connections: set[Any]
    cycle: Any
    transport: asyncio.Transport
    _head: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _body = False
    conn: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "busy", f"{self.max_connections} connections are open, which is the limit")
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        body = self._in_body()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
            return
        self._watch()
        if not body and not self._in_body():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431, "head_too_large", f"the request's head exceeds {_MAX_HEAD_BYTES:,} bytes")

    def on_headers_complete(self) -> None:
        self._body = True
        super().on_headers_complete()  # type: ignore[misc]

    def on_message_complete(self) -> None:
        self._body = False
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
        if self._in_body() or (self.cycle is not None and not self._head_bytes):
            self.transport.close()  # it was answered, and asks for nothing
        else:
            late = f"the request's head did not arrive in {self.header_seconds} seconds"
            self._refuse(408, "request_timeout", late)

    def _refuse(self, status: int, code: str, message: str) -> None:
        request_id = uuid.uuid4().hex
        body = error_body(code, message, None, request_id)
        head = (
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
            b"%sconnection: close\r\n\r\n"
        )
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        values = (status, _REASONS[status], len(body), request_id.encode(), retry)
        if not self.transport.is_closing():
            self.transport.write(head % values + body)
            self.transport.close()


def guard_connections(limits: ServiceSettings) -> None:
    """Put the guard in the place where BentoML's workers, which take no such options, look the protocol up."""
    options = {"max_connections": limits.max_connections, "header_seconds": limits.header_seconds}
    auto.AutoHTTPProtocol = type("GuardedProtocol", (_Guard, auto.AutoHTTPProtocol), options)
