"""Server processes, and the load that the benchmarks put on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

ABNN = ("-m", "bentoml", "serve", "abnn_serve.service:AbnnService")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request and its response.

    Attributes:
        at: when it was sent, in seconds of `time.perf_counter`.
        seconds: how long the response took.
        status: the HTTP status, -1 if no response came.
        stages: seconds by stage, from the header Server-Timing.
        body: the response's body, if it was kept.
    """

    at: float
    seconds: float
    status: int
    stages: dict[str, float] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server process and its log file."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    ready: str = "/readyz",
    cwd: Path | None = None,
) -> Iterator[Server]:
    """Run `python *command --host ... --port ...` until the block ends; enter the block when `ready` answers 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": path, **(env or {})}
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603
            arguments, cwd=cwd, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(url=f"http://127.0.0.1:{port}", process=process, log=log)
    try:
        wait_until_ready(server, ready)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the baselines do not stop all their processes


def wait_until_ready(
    server: Server, path: str = "/readyz", seconds: float = 180, *, headers: Mapping[str, str] | None = None
) -> float:
    """Wait until `path` answers 200; return the seconds that this took."""
    request = urllib.request.Request(server.url + path, headers=dict(headers or {}))  # noqa: S310
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if server.process.poll() is not None:
            raise SystemExit(f"the server exited with {server.process.returncode}: {server.log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            if response.status == 200:
                return time.monotonic() - started
        time.sleep(0.1)
    raise SystemExit(f"the server was not ready after {seconds:.0f} seconds: {server.log.read_text()[-2000:]}")


def image_form(data: bytes, name: str = "image") -> aiohttp.FormData:
    """A multipart form with one image file."""
    form = aiohttp.FormData()
    form.add_field(name, data, filename="image", content_type="application/octet-stream")
    return form


async def post(
    session: aiohttp.ClientSession, url: str, data: bytes | aiohttp.FormData, *, keep: bool = False
) -> Sample:
    """POST an image as it is, or a form; `keep` keeps the response's body."""
    headers = {"Content-Type": "image/png"} if isinstance(data, bytes) else None
    started = time.perf_counter()
    try:
        async with session.post(url, data=data, headers=headers) as response:
            body = await response.read()
            timing = re.findall(r"(\w+);dur=([\d.]+)", response.headers.get("Server-Timing", ""))
            status = response.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Sample(at=started, seconds=time.perf_counter() - started, status=-1)
    return Sample(
        at=started,
        seconds=time.perf_counter() - started,
        status=status,
        stages={stage: float(milliseconds) / 1000 for stage, milliseconds in timing},
        body=body if keep else b"",
    )


async def closed_loop(
    url: str,
    images: Sequence[bytes],
    clients: int,
    seconds: float,
    *,
    raw: bool = False,
    field: str = "image",
    headers: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Keep `clients` requests in flight for `seconds`; each client sends its next image when a response arrives.

    Args:
        url: where to POST.
        images: encoded images, sent in turn.
        clients: requests in flight.
        seconds: no request starts later than this.
        raw: send the image as the body, not in a multipart form.
        field: the form's field name.
        headers: of every request, such as an API key.
    """
    samples: list[Sample] = []
    async with client(clients, headers) as session:
        end = time.perf_counter() + seconds

        async def one(index: int) -> None:
            while time.perf_counter() < end:
                image = images[index % len(images)]
                samples.append(await post(session, url, image if raw else image_form(image, field)))
                index += clients

        await asyncio.gather(*(one(index) for index in range(clients)))
    return samples


@contextlib.asynccontextmanager
async def client(connections: int, headers: Mapping[str, str] | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session with a limit on connections; 0 means no limit."""
    timeout, connector = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        yield session
