"""Aimed inputs: every finding of docs/security.md against a real server, held to that page's bars."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from abnn_serve.bundle.store import load_bundle
from abnn_serve.service.key_file import new_key
from benchmarks.common.images import noise_pngs
from benchmarks.common.report import Bar
from benchmarks.common.servers import Server
from benchmarks.trials.aimed_files import file_bars
from benchmarks.trials.aimed_inputs import Hostile, key_in_trailer, pipelined, requests, trailers, valid
from benchmarks.trials.aimed_watch import Observed, observing
from benchmarks.trials.service import Result, serving

_QUIET_SECONDS = 5.0
_REVOKE_SECONDS = 3.0
_SHUTDOWN_SECONDS = 32  # uploads, deadline, drain and a second


def aimed(options: argparse.Namespace, folder: Path) -> Result:
    """Send each hostile input alone, and watch what other clients get."""
    manifest = load_bundle(options.bundle).manifest
    image = noise_pngs(manifest.input.height, 1)[0]
    key, line = new_key("bench")
    keys = folder / "keys.txt"
    keys.write_text(line + "\n")
    headers = {"X-API-Key": key}
    bars: list[Bar] = []
    statuses: dict[str, str] = {}
    with serving(options, folder, ABNN_API_KEY_FILE=str(keys)) as server:
        for name, request in valid().items():
            statuses[name] = _posting(server, request, manifest.name, headers)()
        with observing(server, image, headers, _QUIET_SECONDS) as quiet:
            pass
        bars += quiet.bars("no attack", quiet)
        for name, hostile in requests(manifest.input.shape).items():
            attack = _posting(server, hostile, manifest.name, headers)
            bars += _watched(name, attack, server, image, headers, quiet, statuses)
        for name, data in _connections().items():
            attack = _unread(server, data)
            bars += _watched(name, attack, server, image, headers, quiet, statuses)
        status = _raw_status(server, key_in_trailer(key))
        bars.append(Bar(name="S7 a key in a trailer is honoured", value=int(status == 200), limit=0))
        bars += _listening(server)
        keys.write_text("")
        time.sleep(_REVOKE_SECONDS)
        bars.append(Bar(name="S13 revoked key honoured", value=int(_status(server, headers) == 200), limit=0))
        bars.append(_shutdown(server))
    with serving(options, folder) as server:
        bars += _names(server)
    waits = [round(1000 * max(times), 1) for times in (quiet.alive, quiet.answers)]
    return bars + file_bars(folder), {"statuses": statuses, "longest without an attack, ms": waits}


def _connections() -> dict[str, list[bytes]]:
    """Bytes of connections that are not read from, by finding."""
    return {
        "S6 pipelined requests": [pipelined("/livez", 330_000)],
        "S7 trailers": [trailers(12_000_000)],
        "S8 clients that do not read": [pipelined("/page/page.js", 500)] * 21,
    }


def _watched(
    name: str,
    attack: Callable[[], str],
    server: Server,
    image: bytes,
    headers: dict[str, str],
    quiet: Observed,
    statuses: dict[str, str],
) -> list[Bar]:
    with observing(server, image, headers) as observed:
        statuses[name] = attack()
    observed.failed += any(part in statuses[name] for part in (" 500", " 502", " 504"))
    print(f"    {name}: {statuses[name]}, peak {observed.peak / 1e6:.0f} MB", flush=True)
    return observed.bars(name, quiet)


def _posting(server: Server, hostile: Hostile, model: str, headers: dict[str, str]) -> Callable[[], str]:
    body, url = hostile.make(), server.url + hostile.path.replace("{model}", model)

    def post(_: int) -> str:
        request = urllib.request.Request(url, body, {"Content-Type": hostile.content_type, **headers})  # noqa: S310
        return f" {_open(request)}"

    def attack() -> str:
        started = time.perf_counter()
        with ThreadPoolExecutor(hostile.copies) as pool:
            answers = "".join(pool.map(post, range(hostile.copies)))
        return f"{len(body):,} bytes:{answers} in {time.perf_counter() - started:.1f} s"

    return attack


def _unread(server: Server, connections: Sequence[bytes]) -> Callable[[], str]:
    def attack() -> str:
        sent = dropped = 0
        with contextlib.ExitStack() as stack:
            for data in connections:
                client = stack.enter_context(socket.create_connection(_address(server), timeout=2))
                try:
                    for at in range(0, len(data), 1 << 16):
                        client.sendall(data[at : at + (1 << 16)])
                        sent += len(data[at : at + (1 << 16)])
                except OSError:  # the server stopped reading, or closed the connection
                    dropped += 1
            time.sleep(12)  # over ABNN_WRITE_SECONDS
        return f"{sent:,} bytes sent on {len(connections)} connections, {dropped} refused"

    return attack


def _shutdown(server: Server) -> Bar:
    """SIGTERM while clients do not read (S8)."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.create_connection(_address(server), timeout=2))
            with contextlib.suppress(OSError):
                client.sendall(pipelined("/page/page.js", 500))
        started = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError, Exception):
            server.process.wait(timeout=90)
    return Bar(name="S8 SIGTERM beside them, s", value=time.perf_counter() - started, limit=_SHUTDOWN_SECONDS)


def _listening(server: Server) -> list[Bar]:
    """Ports besides that of HTTP (S12)."""
    parent = psutil.Process(server.process.pid)
    ports = {
        connection.laddr.port
        for process in (parent, *parent.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    return [Bar(name="S12 ports besides HTTP", value=len(ports - {_address(server)[1]}), limit=0)]


def _names(server: Server) -> list[Bar]:
    """Another Host, and an address that the client chose (S24), at a server without keys."""
    status = _status(server, {"Host": "attacker.example"})
    _status(server, {"X-Forwarded-For": "203.0.113.7"})
    time.sleep(0.5)
    return [
        Bar(name="S24 other Host answered", value=int(status == 200), limit=0),
        Bar(name="S24 client's address believed", value=int("203.0.113.7" in server.log.read_text()), limit=0),
    ]


def _status(server: Server, headers: dict[str, str]) -> int:
    return _open(urllib.request.Request(f"{server.url}/model", headers=headers))  # noqa: S310


def _open(request: urllib.request.Request) -> int:
    """The status of a response; -1 if none came within two minutes."""
    try:
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return -1


def _raw_status(server: Server, data: bytes) -> int:
    with socket.create_connection(_address(server), timeout=10) as client:
        client.sendall(data)
        parts = client.recv(100).split()
    return int(parts[1]) if len(parts) > 1 else -1


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)
