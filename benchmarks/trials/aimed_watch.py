"""What one hostile input does to a service: its memory, and how late other clients get their answers."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing as mp
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

import psutil

from benchmarks.common.memory import resident_bytes
from benchmarks.common.report import Bar
from benchmarks.common.servers import Server

_EVERY_SECONDS = 0.03
_SETTLE_SECONDS = 10.0
_UPLOAD_BYTES = 50_000_000  # largest allowed upload
_LOOP_MS, _LATE_MS = 50, 100


@dataclass(slots=True)
class Observed:
    """Memory in bytes and delays in seconds, during and after an attack."""

    steady: int = 0
    peak: int = 0
    after: int = 0
    alive: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    failed: int = 0

    def bars(self, name: str, quiet: Observed) -> list[Bar]:
        """The bars of docs/security.md; `quiet` was observed without an attack, on the same machine.

        A delay counts from the longest one without an attack, which other load on the machine causes.
        """
        loop, answer = (
            1000 * (max(attacked, default=0.0) - max(calm, default=0.0))
            for attacked, calm in ((self.alive, quiet.alive), (self.answers, quiet.answers))
        )
        steady = 1.25 * quiet.steady
        return [
            Bar(name=f"{name}: peak, MB", value=self.peak / 1e6, limit=(steady + _UPLOAD_BYTES) / 1e6),
            Bar(name=f"{name}: /livez late, ms", value=max(0.0, loop), limit=_LOOP_MS),
            Bar(name=f"{name}: answers late, ms", value=max(0.0, answer), limit=_LATE_MS),
            Bar(name=f"{name}: failed answers and 5xx", value=self.failed, limit=0),
            Bar(name=f"{name}: after 10 s, MB", value=self.after / 1e6, limit=steady / 1e6),
        ]


@contextlib.contextmanager
def observing(
    server: Server, image: bytes, headers: dict[str, str], settle: float = _SETTLE_SECONDS
) -> Iterator[Observed]:
    """Observe a service while the block runs and for `settle` seconds after it."""
    observed = Observed(steady=resident(server))
    results: mp.Queue[tuple[list[float], list[float], int]] = mp.Queue()
    ended = mp.Event()
    prober = mp.Process(target=_probe, args=(server.url, image, headers, ended, results))
    prober.start()
    with resident_bytes(lambda: _processes(server), interval=0.05) as samples:
        yield observed
        time.sleep(settle)
        observed.after = resident(server)
        ended.set()
        observed.alive, observed.answers, failed = results.get(timeout=60)
        observed.failed += failed
    prober.join()
    observed.peak = max(samples, default=0)


def resident(server: Server) -> int:
    """Resident bytes of all processes of a service."""
    return sum(process.memory_info().rss for process in _processes(server))


def _processes(server: Server) -> list[psutil.Process]:
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def _probe(url: str, image: bytes, headers: dict[str, str], ended: Event, results: mp.Queue[object]) -> None:
    """Ask /livez and /classify in turn, each on a connection of its own, until `ended` is set."""
    alive: list[float] = []
    answers: list[float] = []
    failed = 0
    clients = [http.client.HTTPConnection(url.removeprefix("http://"), timeout=30) for _ in range(2)]
    while not ended.wait(_EVERY_SECONDS):
        for connection, path, times in ((clients[0], "/livez", alive), (clients[1], "/classify", answers)):
            started = time.perf_counter()
            try:
                if path == "/livez":
                    connection.request("GET", path)
                else:
                    connection.request("POST", path, image, {"Content-Type": "image/png", **headers})
                response = connection.getresponse()
                response.read()
                failed += response.status != 200
            except OSError:
                failed += 1
                connection.close()
            times.append(time.perf_counter() - started)
    results.put((alive, answers, failed))
