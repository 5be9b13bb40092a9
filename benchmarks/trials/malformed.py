"""Malformed requests: no 5xx, no crash, an expected status for each, bounded memory."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abnn_serve.bundle.store import load_bundle
from benchmarks.common.images import noise_pngs
from benchmarks.common.memory import resident_bytes
from benchmarks.common.report import Bar
from benchmarks.common.servers import Server, client
from benchmarks.trials.requests import Request, make_requests, read_media, send_incomplete
from benchmarks.trials.service import CLIENTS, Result, failures_after, serving, workers

_MEMORY_LIMIT = 1.5  # peak under attack over the steady state


def malformed(options: argparse.Namespace, folder: Path) -> Result:
    """Send every odd file as it is, for the steady state of memory, then the malformed requests."""
    manifest = load_bundle(options.bundle).manifest
    size = manifest.input.height
    images, videos = read_media(options.data, noise_pngs(size))
    requests = make_requests(options.requests, images, videos, manifest.input.shape, options.kind)
    valid = [_unchanged("/classify", "image/png", image) for image in images]
    valid += [_unchanged("/classify_video", "video/mp4", video) for video in videos]
    with serving(options, folder, ABNN_UPLOAD_SECONDS="3") as server:
        started = {worker.pid for worker in workers(server)}
        with resident_bytes(lambda: workers(server), interval=0.25) as before:
            asyncio.run(_send_all(server, valid * 3, manifest.name))
        with resident_bytes(lambda: workers(server), interval=0.25) as attacked:
            statuses = asyncio.run(_send_all(server, requests, manifest.name))
        replaced = started ^ {worker.pid for worker in workers(server)}
        failures = failures_after(server, size, 2.0)
    pairs = zip(requests, statuses, strict=True)
    unexpected = [(request.kind, status) for request, status in pairs if status not in request.expected]
    steady = float(np.median(before[len(before) // 2 :]))
    bars = [
        Bar(name="5xx responses", value=sum(status >= 500 for status in statuses), limit=0),
        Bar(name="unexpected statuses", value=len(unexpected), limit=0),
        Bar(name="workers replaced", value=len(replaced), limit=0),
        Bar(name="peak memory / steady memory", value=max(attacked) / steady, limit=_MEMORY_LIMIT),
        Bar(name="failed valid requests afterwards", value=failures, limit=0),
    ]
    return bars, {
        "requests": len(requests),
        "statuses": dict(sorted(Counter(statuses).items())),
        "unexpected statuses": dict(Counter(map(str, unexpected))),
        "steady memory, MB": round(steady / 1e6),
    }


def _unchanged(path: str, content_type: str, body: bytes) -> Request:
    return Request(kind="unchanged", path=path, content_type=content_type, body=body, expected=frozenset())


async def _send_all(server: Server, requests: Sequence[Request], model: str) -> list[int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    slots = asyncio.Semaphore(CLIENTS)

    async with client(CLIENTS) as session:

        async def send(request: Request) -> int:
            async with slots:
                if request.kind in {"cut", "slow"}:
                    return await send_incomplete(host, int(port), request, 15)
                url = server.url + request.path.replace("{model}", model)
                headers = {"Content-Type": request.content_type}
                try:
                    async with session.post(url, data=request.body, headers=headers) as response:
                        await response.read()
                        return response.status
                except OSError:
                    return -1

        return await asyncio.gather(*map(send, requests))
