"""Real server processes and real load, for the benchmarks of the service."""

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
    """One answer: when it was asked for and how long it took, in seconds; its status, -1 where none came."""

    at: float
    seconds: float
    status: int
    stages: dict[str, float] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server process and the log that it writes."""

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
    """Run `python command` with --host and --port added, until the block ends; yield it once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
            os.killpg(process.pid, signal.SIGKILL)  # the baselines leave processes behind


def wait_until_ready(server: Server, path: str = "/readyz", seconds: float = 180) -> float:
    """Wait for 200 at `path`; the seconds that it took."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if server.process.poll() is not None:
            raise SystemExit(f"the server ended with {server.process.returncode}: {server.log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(server.url + path, timeout=5) as answer:  # noqa: S310
            if answer.status == 200:
                return time.monotonic() - started
        time.sleep(0.1)
    raise SystemExit(f"the server was not ready in {seconds:.0f} seconds: {server.log.read_text()[-2000:]}")


def classify_form(data: bytes, name: str = "image") -> aiohttp.FormData:
    """A multipart form with one file."""
    form = aiohttp.FormData()
    form.add_field(name, data, filename="picture", content_type="application/octet-stream")
    return form


async def ask(
    session: aiohttp.ClientSession, url: str, data: bytes | aiohttp.FormData, *, keep: bool = False
) -> Sample:
    """One POST; `keep` keeps the answer's body."""
    headers = {"Content-Type": "image/png"} if isinstance(data, bytes) else None
    started = time.perf_counter()
    try:
        async with session.post(url, data=data, headers=headers) as answer:
            body = await answer.read()
            timing = re.findall(r"(\w+);dur=([\d.]+)", answer.headers.get("Server-Timing", ""))
            status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Sample(at=started, seconds=time.perf_counter() - started, status=-1)
    return Sample(
        at=started,
        seconds=time.perf_counter() - started,
        status=status,
        stages={stage: float(spent) / 1000 for stage, spent in timing},
        body=body if keep else b"",
    )


async def closed_loop(
    url: str, pictures: Sequence[bytes], clients: int, seconds: float, *, raw: bool = False, field: str = "image"
) -> list[Sample]:
    """`clients` at a time, each asking again as soon as it is answered; a raw body, or a form with one file."""
    samples: list[Sample] = []
    async with client(clients) as session:
        end = time.perf_counter() + seconds

        async def one(index: int) -> None:
            turn = index
            while time.perf_counter() < end:
                picture = pictures[turn % len(pictures)]
                samples.append(await ask(session, url, picture if raw else classify_form(picture, field)))
                turn += clients

        await asyncio.gather(*(one(index) for index in range(clients)))
    return samples


@contextlib.asynccontextmanager
async def client(connections: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of so many connections; 0 is without limit."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections), timeout=timeout) as session:
        yield session
