"""What do keys, traces, shadow, canary, drift and signs of attacks add to the latency of a request?

python -m benchmarks.operation
python -m benchmarks.operation --out benchmarks/results/operation-cpu

Three servers of the default bundle take turns in one run: one with everything off; one with an API key that has limits,
an int8 shadow and drift of 5% of the samples, spans of 5% of the requests, a canary, near-duplicates counted, and two
versions; and the same with the spans of all requests. The bars are medians over turns of the ratio of two medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import numpy as np

from abnn_serve.runtime.settings import default_bundle
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import smooth_jpeg
from benchmarks.common.operated import discarding_collector, everything
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, closed_loop, running

_CLIENTS = (1, 32)
_LIMIT = 1.03
_SAME = {"ABNN_THREADS": "1", "ABNN_MAX_BATCH": "8"}  # a size measured at start-up may differ between the servers


def main() -> list[Bar]:
    """Time both servers in turn, print and write the results."""
    parser = new_parser("operation", __doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each turn")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each server at each concurrency")
    add_out_option(parser)
    options = parser.parse_args()
    images = [smooth_jpeg(32, np.random.default_rng(i)) for i in range(64)]
    p50: dict[tuple[str, int], list[float]] = {}  # of each turn, in seconds
    with tempfile.TemporaryDirectory() as text, discarding_collector() as collector:
        folder = Path(text)
        key, on = everything(folder, default_bundle(), collector)
        on |= _SAME
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
                            p50.setdefault((case, clients), []).append(float(np.median([s.seconds for s in samples])))
    milliseconds = {key: 1000 * float(np.median(values)) for key, values in p50.items()}
    for (case, clients), value in sorted(milliseconds.items()):
        print(f"{case:<14} {clients:3} clients  p50 {value:8.3f} ms  of {options.rounds} turns")
    bars = [
        Bar(
            name=f"p50, {case} / off",
            setting=f"{clients} clients",
            value=float(np.median(np.divide(p50[case, clients], p50["off", clients]))),
            limit=_LIMIT,
        )
        for case in list(cases)[1:]
        for clients in _CLIENTS
    ]
    if options.out:
        figures = {f"{case}_{clients}_ms": value for (case, clients), value in milliseconds.items()}
        write_record(options.out, {**vars(options), "spans": collector is not None}, bars, **figures)
    return bars


if __name__ == "__main__":
    run("operation", main)
