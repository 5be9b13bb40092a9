"""A real server process, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx


@contextlib.contextmanager
def serving(bundle: Path | None, log: Path, **environment: str) -> Iterator[httpx.Client]:
    """Run `abnn serve` until the block ends, plainly where no bundle is named; a client for it once it is ready."""
    with serving_process(bundle, log, **environment) as (client, _):
        yield client


@contextlib.contextmanager
def serving_process(
    bundle: Path | None, log: Path, host: str = "127.0.0.1", **environment: str
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """As `serving`, with the process; it may listen on another host than the client's, 127.0.0.1."""
    abnn = [
        "-c",
        "from abnn_serve.cli.main import main; main()",
        "serve",
        *(["--bundle", str(bundle)] if bundle else []),
    ]
    with _running(abnn, log, Path.cwd(), {"ABNN_THREADS": "1", **environment}, host) as running:
        yield running


@contextlib.contextmanager
def serving_bento(tag: str, log: Path, folder: Path, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """Run `bentoml serve TAG` in a folder until the block ends; a client for it once it is ready."""
    with _running(["-m", "bentoml", "serve", tag], log, folder, environment) as (client, _):
        yield client


@contextlib.contextmanager
def serving_watched(
    bundles: list[Path], log: Path, watch: Path, **environment: str
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """Run the service of `watched.py` until the block ends: a client, the process; `watch` gets the loop's figures."""
    service = ["-m", "bentoml", "serve", "tests.service.watched:AbnnService"]
    names = ",".join(map(str, bundles))
    variables = {"ABNN_BUNDLE": names, "ABNN_THREADS": "1", "LOOP_WATCH": str(watch), **environment}
    with _running(service, log, Path.cwd(), variables) as running:
        yield running


@contextlib.contextmanager
def _running(
    arguments: list[str], log: Path, folder: Path, environment: dict[str, str], host: str = "127.0.0.1"
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *arguments, "--host", host, "--port", str(port)],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _wait(process, client, log)
            yield client, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server exited with {process.returncode}: {log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise AssertionError(f"not ready in 60 s: {log.read_text()}")


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Look again and again; AssertionError where it does not come true in so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
