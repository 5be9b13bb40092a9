"""What do keys, traces, shadow, canary, drift and signs of attacks add to the latency of a request?

python -m benchmarks.operation
python -m benchmarks.operation --out benchmarks/results/operation-cpu

Three servers of the default bundle take turns in one run: one with everything off; one with an API key that has limits,
an int8 shadow and drift of 5% of the samples, spans of 5% of the requests, a canary, near-duplicates counted, and two
versions; and the same with the spans of all requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from abnn_serve.bundle.store import Bundle, load_bundle, write_bundle
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.service.key_file import KeyTerms, append_key
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import smooth_jpeg
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, closed_loop, running

_CLIENTS = (1, 32)
_LIMIT = 1.03
_SAME = {"ABNN_THREADS": "1", "ABNN_MAX_BATCH": "8"}  # a size measured at start-up may differ between the servers
_TERMS = KeyTerms(requests=100_000_000, megabytes=999_999)


def main() -> list[Bar]:
    """Time both servers in turn, print and write the results."""
    parser = new_parser("operation", __doc__)
    parser.add_argument("--seconds", type=float, default=2.5, help="seconds of each turn")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each server at each concurrency")
    add_out_option(parser)
    options = parser.parse_args()
    images = [smooth_jpeg(32, np.random.default_rng(i)) for i in range(64)]
    latencies: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as text, _collector() as collector:
        folder = Path(text)
        key, on = _everything(folder, collector)
        off = {**_SAME, "ABNN_BUNDLE": str(default_bundle())}
        with contextlib.ExitStack() as servers:
            cases: dict[str, tuple[str, str]] = {}
            for case, environment in (("off", off), ("on", on), ("on, all spans", {**on, "ABNN_TRACE_SAMPLE": "1"})):
                server = servers.enter_context(running(ABNN, folder / f"{len(cases)}.log", env=environment))
                cases[case] = server.url, "" if case == "off" else key
            for turn in range(options.rounds + 1):
                for clients in _CLIENTS:
                    order = list(cases) if turn % 2 else list(reversed(cases))
                    for case in order:
                        url, own_key = cases[case]
                        seconds = options.seconds if turn else 1.0
                        samples = asyncio.run(
                            closed_loop(f"{url}/classify", images, clients, seconds, headers={"X-API-Key": own_key})
                        )
                        if {sample.status for sample in samples} != {200}:
                            raise SystemExit(f"{case}: responses of status { ({s.status for s in samples}) }")
                        if turn:  # the first one warms up
                            latencies.setdefault((case, clients), []).extend(s.seconds for s in samples)
    p50 = {key: 1000 * float(np.median(values)) for key, values in latencies.items()}
    for (case, clients), value in sorted(p50.items()):
        print(f"{case:<14} {clients:3} clients  p50 {value:8.3f} ms  of {len(latencies[case, clients]):,} requests")
    bars = [
        Bar(
            name=f"p50, {case} / off",
            setting=f"{clients} clients",
            value=p50[case, clients] / p50["off", clients],
            limit=_LIMIT,
        )
        for case in list(cases)[1:]
        for clients in _CLIENTS
    ]
    if options.out:
        figures = {f"{case}_{clients}_ms": value for (case, clients), value in p50.items()}
        write_record(options.out, {**vars(options), "spans": collector is not None}, bars, **figures)
    return bars


def _everything(folder: Path, collector: str | None) -> tuple[str, dict[str, str]]:
    """A key, and the environment of a server with everything on."""
    source = load_bundle(default_bundle())
    shutil.copytree(source.path, folder / "bundles" / source.manifest.name)
    _copy(source, folder / "bundles" / "second", source.manifest.name)
    _copy(source, folder / "canary", "canary")
    name = source.manifest.name
    environment = {
        **_SAME,
        "ABNN_BUNDLE": str(folder / "bundles"),
        "ABNN_API_KEY_FILE": str(folder / "keys"),
        "ABNN_NEAR_DUPLICATES": "count",
        "ABNN_DRIFT_SAMPLE": "0.05",
        "ABNN_SHADOW": f"{name}:{source.path}",
        "ABNN_SHADOW_PRECISION": "int8",
        "ABNN_SHADOW_SAMPLE": "0.05",
        "ABNN_TRACE_SAMPLE": "0.05",
        "ABNN_CANARY": f"{name}:{folder / 'canary'}:0.05",
        **({"ABNN_OTLP_ENDPOINT": collector} if collector else {}),
    }
    return append_key(folder / "keys", "benchmark", _TERMS), environment


def _copy(bundle: Bundle, path: Path, name: str) -> None:
    """The bundle as version 2 of `name`."""
    files = {file: bundle.read(file) for file in bundle.manifest.files}
    write_bundle(path, files, lambda entries: replace(bundle.manifest, name=name, version="2", files=entries))


@contextlib.contextmanager
def _collector() -> Iterator[str | None]:
    """The URL of a collector that discards spans; None without the extra `traces`."""
    if importlib.util.find_spec("opentelemetry.exporter") is None:
        print("spans are off: they need the extra traces")
        yield None
        return

    class Discard(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Discard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()


if __name__ == "__main__":
    run("operation", main)
