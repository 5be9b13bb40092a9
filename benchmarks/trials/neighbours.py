"""Hostile batch neighbours: an answer among malformed requests equals the answer alone."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from abnn_serve.bundle.store import load_bundle
from benchmarks.common.images import noise_pngs
from benchmarks.common.report import Bar
from benchmarks.common.servers import Server, client, post
from benchmarks.trials.requests import Request, make_requests, read_media
from benchmarks.trials.service import CLIENTS, Result, serving

_VALID, _HOSTILE = 6, 2  # requests sent together


@dataclass(slots=True)
class _Counts:
    failed: int = 0
    other_class: int = 0
    differences: list[float] = field(default_factory=list)  # largest of a probability, one for each answer


def neighbours(options: argparse.Namespace, folder: Path) -> Result:
    """Send batches of six valid and two malformed requests."""
    manifest = load_bundle(options.bundle).manifest
    valid = noise_pngs(manifest.input.height, 32)
    images, videos = read_media(options.data, valid)
    hostile = make_requests(4 * options.batches, images, videos, manifest.input.shape)
    hostile = [request for request in hostile if request.kind not in {"cut", "slow"}]
    with serving(options, folder) as server:
        counts = asyncio.run(_send_batches(server, valid, hostile, options.batches, manifest.name))
    bars = [
        Bar(name="failed valid requests", value=counts.failed, limit=0),
        Bar(name="answers with another class", value=counts.other_class, limit=0),
        Bar(name="largest difference of a probability", value=max(counts.differences), limit=1e-4),
    ]
    return bars, {
        "batches": options.batches,
        "answers compared": len(counts.differences),
        "identical answers": sum(difference == 0 for difference in counts.differences),
    }


async def _send_batches(
    server: Server, valid: Sequence[bytes], hostile: Sequence[Request], batches: int, model: str
) -> _Counts:
    rng = np.random.default_rng(3)
    counts = _Counts()
    url = f"{server.url}/classify?top_k=1000"
    async with client(CLIENTS) as session:
        alone = [json.loads((await post(session, url, image, keep=True)).body)["top"] for image in valid]

        async def compare(index: int) -> None:
            sample = await post(session, url, valid[index], keep=True)
            if sample.status != 200:
                counts.failed += 1
                return
            top = json.loads(sample.body)["top"]
            counts.other_class += top[0]["index"] != alone[index][0]["index"]
            expected = {row["index"]: row["probability"] for row in alone[index]}
            counts.differences.append(max(abs(row["probability"] - expected[row["index"]]) for row in top))

        for batch in range(batches):
            indices = rng.integers(len(valid), size=_VALID)
            requests = [hostile[(_HOSTILE * batch + i) % len(hostile)] for i in range(_HOSTILE)]
            sent = [
                _send(session, server.url + request.path.replace("{model}", model), request) for request in requests
            ]
            await asyncio.gather(*map(compare, indices), *sent)
    return counts


async def _send(session: aiohttp.ClientSession, url: str, request: Request) -> None:
    async with session.post(url, data=request.body, headers={"Content-Type": request.content_type}) as response:
        await response.read()
