"""Open-loop load: requests at a fixed rate, however slowly the server answers. Far cheaper than aiohttp's client."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import cast

from benchmarks.common.servers import Sample

_GRACE_SECONDS = 60


async def open_loop(url: str, images: Sequence[bytes], rate: float, seconds: float) -> list[Sample]:
    """POST raw images, `rate` per second for `seconds`, and wait up to a minute for the responses."""
    host, port, path = re.fullmatch(r"http://([^:/]+):([0-9]+)(/.*)", url).groups()  # type: ignore[union-attr]
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: "
    requests = [f"{head}{len(image)}\r\n\r\n".encode() + image for image in images]
    flood = _Flood(host, int(port))
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        while flood.sent < elapsed * rate:
            flood.send(requests[flood.sent % len(requests)])
        await asyncio.sleep(0.002)
    return await flood.finish(_GRACE_SECONDS)


class _Flood:
    """Requests on kept-alive connections, and on new ones if none is idle."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._responses: list[asyncio.Future[Sample]] = []
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def sent(self) -> int:
        return len(self._responses)

    def send(self, request: bytes) -> None:
        response: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._responses.append(response)
        if self._idle:
            self._idle.pop().send(request, response, time.perf_counter())
        else:
            self._send_on_new(request, response, time.perf_counter())

    async def finish(self, seconds: float) -> list[Sample]:
        """Wait for all responses; those that do not arrive within `seconds` get status -1."""
        _, missing = await asyncio.wait(self._responses, timeout=seconds)
        for response in missing:
            response.set_result(Sample(at=0.0, seconds=seconds, status=-1))
        for connection in self._idle:
            connection.transport.close()
        return [response.result() for response in self._responses]

    def _send_on_new(self, request: bytes, response: asyncio.Future[Sample], at: float) -> None:
        task = asyncio.create_task(self._open(request, response, at))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: bytes, response: asyncio.Future[Sample], at: float) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._idle, self._send_on_new), *self._address
            )
        except OSError:
            response.set_result(Sample(at=at, seconds=time.perf_counter() - at, status=-1))
        else:
            connection.send(request, response, at)


class _Connection(asyncio.Protocol):
    """One connection of a `_Flood`, which joins the idle ones after each response unless the server closes it.

    If the server closes an idle connection just as it is reused, the request goes to `resend`, as in browsers.
    """

    transport: asyncio.Transport

    def __init__(self, idle: list[_Connection], resend: Callable[[bytes, asyncio.Future[Sample], float], None]) -> None:
        self._idle = idle
        self._resend = resend
        self._response: asyncio.Future[Sample] | None = None
        self._request = self._received = b""
        self._served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, response: asyncio.Future[Sample], at: float) -> None:
        """Send a request; `at` is when the caller issued it."""
        self._request, self._response, self._at, self._received = request, response, at, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or self._response is None:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(body) >= length:
            self._finish(int(lines[0].split()[1]))
            self._served += 1
            if b"connection: close" not in lines:
                self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        if self._response is not None and self._served and not self._received:
            self._resend(self._request, self._response, self._at)
        else:
            self._finish(-1)
        if self in self._idle:
            self._idle.remove(self)

    def _finish(self, status: int) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result(Sample(at=self._at, seconds=time.perf_counter() - self._at, status=status))
        self._response = None
