"""SIGTERM under load: every accepted request is answered, and the exit code is 0."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from abnn_serve.bundle.store import load_bundle
from benchmarks.common.images import noise_pngs
from benchmarks.common.report import Bar
from benchmarks.common.servers import Sample, Server, client, post
from benchmarks.trials.service import Result, serving

_CLIENTS = 8
_SECONDS = 1.5  # of load before the signal


def sigterm(options: argparse.Namespace, folder: Path) -> Result:
    """Start, load and terminate the service `--times` times."""
    images = noise_pngs(load_bundle(options.bundle).manifest.input.height)
    codes: list[int] = []
    waits: list[float] = []
    answered = refused = lost = 0
    for turn in range(options.times):
        home = folder / str(turn)
        home.mkdir()
        with serving(options, home) as server:
            samples = asyncio.run(_load_and_terminate(server, images))
            started = time.perf_counter()
            codes.append(server.process.wait(timeout=60))
            waits.append(time.perf_counter() - started)
            logged = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        received = sum(sample.status == 200 for sample in samples)
        served = sum(line.get("path") == "/classify" and line.get("status") == 200 for line in logged)
        lost += abs(served - received)
        answered += received
        refused += len(samples) - received
    bars = [
        Bar(name="answers logged as sent but not received", value=lost, limit=0),
        Bar(name="exit codes other than 0", value=sum(code != 0 for code in codes), limit=0),
    ]
    return bars, {
        "times": options.times,
        "answered": answered,
        "refused during shutdown": refused,
        "exit codes": dict(Counter(codes)),
        "longest shutdown, s": round(max(waits), 1),
    }


async def _load_and_terminate(server: Server, images: Sequence[bytes]) -> list[Sample]:
    """Send SIGTERM during a closed loop of eight clients, which each stop at the first failure of any."""
    asyncio.get_running_loop().call_later(_SECONDS, os.kill, server.process.pid, signal.SIGTERM)
    samples: list[Sample] = []
    async with client(_CLIENTS) as session:

        async def send(index: int) -> None:
            while not samples or samples[-1].status == 200:
                samples.append(await post(session, f"{server.url}/classify", images[index]))

        await asyncio.gather(*(send(index) for index in range(_CLIENTS)))
    return samples
