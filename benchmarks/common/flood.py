"""Load without end: requests at a rate, whatever the server does, by a client at a fraction of aiohttp's cost."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import cast

from common.serving import Sample


async def open_loop(url: str, pictures: Sequence[bytes], rate: float, seconds: float) -> list[Sample]:
    """POST raw pictures, `rate` a second for so many seconds, and wait for the answers."""
    host, port, path = re.fullmatch(r"http://([^:/]+):([0-9]+)(/.*)", url).groups()  # type: ignore[union-attr]
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: "
    requests = [f"{head}{len(picture)}\r\n\r\n".encode() + picture for picture in pictures]
    flood = _Flood(host, int(port))
    started = time.perf_counter()
    while (now := time.perf_counter() - started) < seconds:
        while len(flood.asked) < now * rate:
            flood.ask(requests[len(flood.asked) % len(requests)])
        await asyncio.sleep(0.002)
    return await flood.answers(60)


class _Flood:
    """Requests on connections that are kept; a new one where none is idle."""

    def __init__(self, host: str, port: int) -> None:
        self.asked: list[asyncio.Future[Sample]] = []
        self._place = (host, port)
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()

    def ask(self, request: bytes) -> None:
        """Send it; its answer will be in `asked`."""
        answer: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        if self._idle:
            self._idle.pop().ask(request, answer, time.perf_counter())
        else:
            self.open(request, answer, time.perf_counter())

    def open(self, request: bytes, answer: asyncio.Future[Sample], at: float) -> None:
        """Send it on a new connection."""
        task = asyncio.create_task(self._open(request, answer, at))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: bytes, answer: asyncio.Future[Sample], at: float) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._idle, self.open), *self._place
            )
        except OSError:
            answer.set_result(Sample(at=at, seconds=time.perf_counter() - at, status=-1))
        else:
            connection.ask(request, answer, at)

    async def answers(self, seconds: float) -> list[Sample]:
        """All of them; what has not come after `seconds` more has status -1."""
        _, late = await asyncio.wait(self.asked, timeout=seconds)
        for answer in late:
            answer.set_result(Sample(at=0.0, seconds=seconds, status=-1))
        for connection in self._idle:
            connection.transport.close()
        return [answer.result() for answer in self.asked]


class _Connection(asyncio.Protocol):
    """One connection of a `_Flood`: goes back to the idle ones with each answer, unless the server closes it.

    Closed while it was idle, just as it was used again, it hands its request to `reopen`, as browsers do.
    """

    transport: asyncio.Transport

    def __init__(self, idle: list[_Connection], reopen: Callable[[bytes, asyncio.Future[Sample], float], None]) -> None:
        self._idle = idle
        self._reopen = reopen
        self._answer: asyncio.Future[Sample] | None = None
        self._request = self._received = b""
        self._served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes, answer: asyncio.Future[Sample], at: float) -> None:
        """Send it; `at` is when it was asked for."""
        self._request, self._answer, self._at, self._received = request, answer, at, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(body) >= length:
            self._done(int(lines[0].split()[1]))
            self._served += 1
            if b"connection: close" not in lines:
                self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        if self._answer is not None and self._served and not self._received:
            self._reopen(self._request, self._answer, self._at)
        else:
            self._done(-1)
        if self in self._idle:
            self._idle.remove(self)

    def _done(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Sample(at=self._at, seconds=time.perf_counter() - self._at, status=status))
        self._answer = None
