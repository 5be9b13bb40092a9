"""What do keys, traces, shadow, canary, drift and signs of attacks add to the latency of a request?

python -m benchmarks.operation
python -m benchmarks.operation --out benchmarks/results/operation-cpu

Four servers of the default bundle take turns: one with everything off; the same where the extra `traces` is not
installed; one with an API key that has limits, an int8 shadow and drift of 5% of the samples, spans of 5% of the
requests, a canary, near-duplicates counted, and two versions; and that one with the spans of all requests. The bars are
medians over turns of the ratio of two medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from abnn_serve.runtime.settings import default_bundle
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import smooth_jpeg
from benchmarks.common.operated import discarding_collector, everything
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, closed_loop, running

_CLIENTS = (1, 32)
_RATIOS = (  # of which cases, and the limit
    ("off", "off, no extra", 1.02),  # the same code twice: what a run of this length can tell
    ("on", "off", 1.03),
    ("on, all spans", "off", 1.03),
)
_SAME = {"ABNN_THREADS": "1", "ABNN_MAX_BATCH": "8"}  # a size measured at start-up may differ between the servers
_NO_EXTRA = "import sys\nsys.modules['opentelemetry.exporter'] = None\n"  # of every process, as sitecustomize.py


def main() -> list[Bar]:
    """Time all servers in turn, print and write the results."""
    parser = new_parser("operation", __doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each turn")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each server at each concurrency")
    add_out_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _servers(Path(folder)) as servers:
        p50 = _measure(servers, options)
    milliseconds = {
        f"{case}, {clients} clients": 1000 * float(np.median(turns)) for (case, clients), turns in p50.items()
    }
    for name, value in sorted(milliseconds.items()):
        print(f"{name:<26} p50 {value:8.3f} ms  of {options.rounds} turns")
    bars = [
        Bar(
            name=f"p50, {case} / {base}",
            setting=f"{clients} clients",
            value=float(np.median(np.divide(p50[case, clients], p50[base, clients]))),
            limit=limit,
        )
        for case, base, limit in _RATIOS
        for clients in _CLIENTS
    ]
    if options.out:
        write_record(options.out, vars(options), bars, p50_ms=milliseconds)
    return bars


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """Run the servers; yield by case the URL to POST to and the API key."""
    with discarding_collector() as collector, contextlib.ExitStack() as stack:
        key, on = everything(folder, default_bundle(), collector)
        off = {"ABNN_BUNDLE": str(default_bundle())}
        (folder / "sitecustomize.py").write_text(_NO_EXTRA)
        environments = {
            "off, no extra": off | {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"},
            "off": off,
            "on": on,
            "on, all spans": on | {"ABNN_TRACE_SAMPLE": "1"},
        }
        yield {
            case: (
                stack.enter_context(running(ABNN, folder / f"{case}.log", env=environment | _SAME)).url + "/classify",
                "" if environment is off or "PYTHONPATH" in environment else key,
            )
            for case, environment in environments.items()
        }


def _measure(servers: dict[str, tuple[str, str]], options: argparse.Namespace) -> dict[tuple[str, int], list[float]]:
    """Median seconds of each turn, by case and number of clients."""
    images = [smooth_jpeg(32, np.random.default_rng(i)) for i in range(64)]
    p50: dict[tuple[str, int], list[float]] = {}
    for turn in range(options.rounds + 1):
        for clients in _CLIENTS:
            for case in list(servers) if turn % 2 else reversed(servers):
                url, key = servers[case]
                samples = asyncio.run(closed_loop(url, images, clients, options.seconds, headers={"X-API-Key": key}))
                if statuses := {sample.status for sample in samples} - {200}:
                    raise SystemExit(f"{case}: responses of status {statuses}")
                if turn:  # the first one warms up
                    p50.setdefault((case, clients), []).append(float(np.median([s.seconds for s in samples])))
    return p50


if __name__ == "__main__":
    run("operation", main)
