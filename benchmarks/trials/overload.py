"""Ten times the sustainable load: 200 or 503 within the deadline, the plateau's throughput, and recovery."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvloop

from abnn_serve.bundle.store import load_bundle
from benchmarks.common.images import noise_pngs
from benchmarks.common.report import Bar
from benchmarks.common.servers import Sample, closed_loop
from benchmarks.trials.flood import open_loop
from benchmarks.trials.service import Result, serving

FLOODS = 4
FILLING = 3.0  # seconds in which the queue fills
_DEADLINE = 10
_PLATEAU_SECONDS = 12.0
_RECOVERY_SECONDS = 5.0
_FACTOR = 10


def overload(options: argparse.Namespace, folder: Path) -> Result:
    """Alternate plateau (eight clients) and flood, so that other load on the machine hits both alike.

    The first seconds of a flood, in which the queue fills, do not count for its throughput.
    """
    images = noise_pngs(load_bundle(options.bundle).manifest.input.height)
    seconds = options.seconds / FLOODS
    flood: list[Sample] = []
    plateau_rates: list[float] = []
    flood_rates: list[float] = []
    behind_a_proxy = {
        "ABNN_TRUSTED_PROXIES": "127.0.0.1"
    }  # the flood stands for many clients, each with few connections
    with serving(options, folder, ABNN_DEADLINE_SECONDS=str(_DEADLINE), **behind_a_proxy) as server:
        url = f"{server.url}/classify"

        def load(clients: int, duration: float) -> list[Sample]:
            return asyncio.run(closed_loop(url, images, clients, duration, raw=True))

        load(8, _RECOVERY_SECONDS)  # warm-up
        before = load(1, _RECOVERY_SECONDS)
        for _ in range(FLOODS):
            plateau_rates.append(_rate(load(8, _PLATEAU_SECONDS), 0, _PLATEAU_SECONDS))
            samples = uvloop.run(open_loop(url, images, _FACTOR * plateau_rates[0], seconds))
            flood += samples
            flood_rates.append(_rate(samples, FILLING, seconds))
            ended = time.perf_counter()
            recovery = load(1, _RECOVERY_SECONDS)
        after = load(1, _RECOVERY_SECONDS)
    other = sum(sample.status not in {200, 503} for sample in flood)
    p99 = float(np.quantile([sample.seconds for sample in flood if sample.status == 200], 0.99))
    answered = [s for s in recovery if s.status == 200 and s.at + s.seconds < ended + _RECOVERY_SECONDS]
    share = float(np.mean(flood_rates) / np.mean(plateau_rates))
    bars = [
        Bar(name="responses other than 200 and 503", value=other, limit=0),
        Bar(name="p99 of accepted requests, s", value=p99, limit=_DEADLINE),
        Bar(name="throughput under overload / plateau", value=share, limit=0.9, better="larger"),
        Bar(name="requests answered within 5 s afterwards", value=len(answered), limit=1, better="larger"),
    ]
    p50 = [float(np.median([sample.seconds for sample in samples])) for samples in (before, after)]
    return bars, {
        "plateau, images/s": [round(rate, 1) for rate in plateau_rates],
        "offered load, requests/s": round(_FACTOR * plateau_rates[0], 1),
        "statuses": dict(Counter(sample.status for sample in flood)),
        "under overload, images/s": [round(rate, 1) for rate in flood_rates],
        "p50 of one client before and after, ms": [round(1000 * value, 1) for value in p50],
    }


def _rate(samples: Sequence[Sample], start: float, end: float) -> float:
    """Answers per second, from `start` to `end` seconds after the first request."""
    first = min(sample.at for sample in samples)
    ends = [sample.at + sample.seconds - first for sample in samples if sample.status == 200]
    return sum(start <= at < end for at in ends) / (end - start)
