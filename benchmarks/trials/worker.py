"""SIGKILL of the worker: the service is not ready without one, and the supervisor starts another."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from abnn_serve.bundle.store import load_bundle
from benchmarks.common.report import Bar
from benchmarks.common.servers import client, wait_until_ready
from benchmarks.trials.service import Result, failures_after, serving, workers


def worker(options: argparse.Namespace, folder: Path) -> Result:
    """Kill the only worker and wait until the service is ready again."""
    size = load_bundle(options.bundle).manifest.input.height
    with serving(options, folder) as server:
        (killed,) = workers(server)
        killed.kill()
        killed.wait(10)
        started = time.monotonic()
        status = asyncio.run(_status(f"{server.url}/readyz", 0.5))
        recovery = wait_until_ready(server) + time.monotonic() - started
        new = {process.pid for process in workers(server)} - {killed.pid}
        failures = failures_after(server, size, 1.0)
    bars = [
        Bar(name="ready without a worker", value=int(status == 200), limit=0),
        Bar(name="new workers", value=len(new), limit=1, better="larger"),
        Bar(name="failed requests afterwards", value=failures, limit=0),
    ]
    return bars, {"seconds until ready again": round(recovery, 1)}


async def _status(url: str, seconds: float) -> int:
    async with client(1) as session:
        try:
            async with asyncio.timeout(seconds), session.get(url) as response:
                return response.status
        except (OSError, TimeoutError):
            return -1
