"""One HTTP connection under limits that uvicorn's protocol lacks.

It bounds what a client may send before it is answered: the head, the number of headers, the bytes between the pieces of
a chunked body, and the requests behind the first one. It drops trailers, because they arrive after the key was checked.
A rejection waits for the responses that are due before it.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any

import httptools

from abnn_serve.service.admission import full_message
from abnn_serve.service.peers import Peers
from abnn_serve.service.rejections import rejection
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import WorkerState

_MAX_HEAD_BYTES = 65_536
_MAX_URL_BYTES = 4096
_MAX_HEADERS = 100
_MAX_PIPELINED = 8
_MAX_PIECES = 4000  # chunks and trailers in 256 kB, as many as the event loop reads at once; they take 2 ms
_LINGER_SECONDS = 1.0  # a client that is still sending would not see the response if the socket closed at once

HOOKS = (
    "_should_upgrade",
    "_unset_keepalive_if_required",
    "connection_lost",
    "connection_made",
    "on_body",
    "on_header",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "on_url",
    "resume_writing",
    "shutdown",
)
ATTRIBUTES = (
    "client",
    "config",
    "connections",
    "cycle",
    "expect_100_continue",
    "headers",
    "parser",
    "pipeline",
    "scope",
    "transport",
)


class _Phase(Enum):
    """What a connection does next."""

    HEAD = auto()  # reads a request head, or waits for the first one
    BODY = auto()  # reads the body of a request that the application handles
    REJECTED_BODY = auto()  # skips the body of a request that was rejected
    IDLE = auto()  # waits for the next request
    CLOSING = auto()  # ignores what the client still sends


class _StopParsingError(Exception):
    """Ends the parser's work on the bytes that have arrived."""


class GuardedProtocol(asyncio.Protocol):
    """Mixed in before uvicorn's HttpToolsProtocol, which has the attributes without a value."""

    limits: ServiceSettings
    peers: Peers
    service: WorkerState
    client: tuple[str, int] | None
    config: Any
    connections: set[Any]
    cycle: Any
    expect_100_continue: bool
    headers: list[tuple[bytes, bytes]] | None
    parser: Any
    pipeline: Any
    scope: dict[str, Any]
    transport: asyncio.Transport
    url: bytes = b""
    stalled_since: float | None = None
    _phase = _Phase.HEAD
    _heads = 0  # that began in the data that is being parsed
    _unanswered = 0  # requests that were passed to uvicorn
    _head_bytes = _body_bytes = 0  # of the request that is being read, as parsed
    _other_bytes = 0  # see _count
    _pieces = 0  # chunks and trailers in the data that is being parsed
    _last_words = b""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        of_address, most = self.peers.add(self, self.client), self.limits.max_connections
        if len(self.connections) > 2 * most or of_address > 2 * self.peers.max_per_address:
            self.transport.abort()
        elif len(self.connections) > most:
            self._reject(503, "busy", f"{most} connections are open, which is the limit; retry after 1 s")
        elif of_address > self.peers.max_per_address:
            most = self.peers.max_per_address
            self._reject(503, "busy", f"{most} connections are open from this address, which is the limit; reuse them")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peers.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self.stalled_since = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Called once when the server stops: it waits for this connection for at most the deadline."""
        self.config.timeout_graceful_shutdown = self.limits.deadline_seconds
        super().shutdown()  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.CLOSING:
            return
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]
        before, delivered = self._phase, self._body_bytes
        starts_a_head = before is _Phase.IDLE or self.scope is None
        self._heads = self._pieces = 0
        self._parse(data)
        if (self._phase is before and not self._heads) or (self._is_in_head() and starts_a_head and self._heads == 1):
            self._count(len(data) - (self._body_bytes - delivered))
        if self._unanswered or self._is_closing():
            self._stop_timer()
        else:
            self._start_timer()

    def on_message_begin(self) -> None:
        if self._phase is _Phase.CLOSING:
            raise _StopParsingError
        self._phase = _Phase.HEAD
        self._heads += 1
        self._head_bytes = self._body_bytes = self._other_bytes = 0
        super().on_message_begin()  # type: ignore[misc]

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > _MAX_URL_BYTES:
            self._reject_head(f"the request target exceeds the limit of {_MAX_URL_BYTES:,} bytes")
            raise _StopParsingError
        super().on_url(url)  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not _Phase.HEAD:  # a trailer: RFC 9110 6.5.1 forbids to use most of them
            self._count_piece()
            return
        self._head_bytes += len(name) + len(value) + len(b": \r\n")
        if self._head_bytes > _MAX_HEAD_BYTES or len(self.headers or ()) >= _MAX_HEADERS:
            self._reject_head(f"the request head exceeds {_MAX_HEADERS} headers or {_MAX_HEAD_BYTES:,} bytes")
            raise _StopParsingError
        super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._reject(400, "bad_request", f"over {_MAX_PIPELINED} requests wait for their responses; send fewer")
            raise _StopParsingError
        is_post = not self._unanswered and self.parser.get_method() == b"POST"
        if is_post and self.service.admission.is_full:
            keep_alive = self.parser.should_keep_alive() and not self.expect_100_continue
            self._reject(503, "busy", full_message(self.service.admission.max_requests), close=not keep_alive)
            if keep_alive:
                self._phase = _Phase.REJECTED_BODY
            return
        super().on_headers_complete()  # type: ignore[misc]
        self._phase = _Phase.BODY
        self._unanswered += 1
        if is_post:  # uvicorn has parsed the URL, so RequestMiddleware will see the request and uncount it
            self.service.admission.pending += 1
            self.scope["state"]["pending"] = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._count_piece()
        if self._phase is _Phase.BODY:
            super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        if self._phase is _Phase.BODY:
            super().on_message_complete()  # type: ignore[misc]
        if self._phase is not _Phase.CLOSING:
            self._phase = _Phase.IDLE
            self._stop_timer()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()  # type: ignore[misc]
        if self._phase is _Phase.CLOSING and not self._unanswered:
            self._close()

    def _should_upgrade(self) -> bool:
        return False  # a WebSocket handshake is answered as a plain request

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse(data[upgrade.args[0] :])  # the next request; at most _MAX_PIPELINED of them
        except httptools.HttpParserError:
            self._reject(400, "bad_request", "not a valid HTTP request")

    def _count(self, count: int) -> None:
        """Count bytes that continue what earlier data began, without those of the body."""
        self._other_bytes += count
        if self._is_in_head() and self._other_bytes > _MAX_HEAD_BYTES:
            self._reject_head(f"the request head exceeds the limit of {_MAX_HEAD_BYTES:,} bytes")
        elif self._other_bytes > _MAX_HEAD_BYTES + self._body_bytes // 8:
            self._reject_framing()

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces > _MAX_PIECES:
            self._reject_framing()
            raise _StopParsingError

    def _is_in_head(self) -> bool:
        return self._phase is _Phase.HEAD

    def _is_closing(self) -> bool:
        return self._phase is _Phase.CLOSING

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(self.limits.header_seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._phase is _Phase.HEAD:
            seconds = self.limits.header_seconds
            self._reject(408, "request_timeout", f"the request head did not arrive within {seconds} s")
        else:
            self.transport.close()  # the client has its response

    def _reject_head(self, message: str) -> None:
        self._reject(431, "head_too_large", message)

    def _reject_framing(self) -> None:
        problem = "the body has too many small chunks, chunk extensions or trailers; send larger chunks"
        self._reject(400, "bad_request", problem)

    def _reject(self, status: int, code: str, message: str, *, close: bool = True) -> None:
        """Send an error response without running the application."""
        if self._phase is _Phase.CLOSING or self.transport.is_closing():
            return
        self.service.metrics.rejects.labels(code).inc()
        self.service.metrics.requests.labels("other", status).inc()
        response = rejection(status, code, message, self.headers or [], self.url, close=close)
        if close:
            self._stop(response)
        else:
            self.transport.write(response)

    def _stop(self, response: bytes) -> None:
        """Close the connection after the responses that are due and this one, which is for the request being read."""
        phase, self._phase, self._last_words = self._phase, _Phase.CLOSING, response
        self._stop_timer()
        if phase is _Phase.BODY and self._unanswered:  # the application waits for the rest of this body, or will
            self._unanswered -= 1
            if self.pipeline:
                self.pipeline.popleft()
            else:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        if phase is _Phase.REJECTED_BODY or (phase is _Phase.BODY and self.cycle.response_started):
            self._last_words = b""
        if not self._unanswered:
            self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._last_words)
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.transport.close)
