"""Rounds of load on all servers, the session and the Predictor, and their figures."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from abnn_serve.runtime.predictor import Predictor
from benchmarks.common.servers import Sample, closed_loop

CONCURRENCY = (1, 8, 32)
RAW_BATCHES = (1, 8, 32)
WARM_UP_SECONDS = 3.0
Rounds = dict[str, list[tuple[float, list[Sample]]]]  # for each case and round, its seconds and samples


def run_rounds(
    rounds: int, seconds: float, urls: dict[str, str], predictor: Predictor, images: Sequence[bytes]
) -> Rounds:
    """Warm the servers up, then measure every case in each of `rounds` rounds, `seconds` each."""
    for name, url in urls.items():
        for clients in CONCURRENCY:
            asyncio.run(_load(name, url, images, clients, WARM_UP_SECONDS))
    results: Rounds = defaultdict(list)
    for _ in range(rounds):
        for clients in CONCURRENCY:
            for name, url in urls.items():
                results[f"{name} x{clients}"].append(asyncio.run(_load(name, url, images, clients, seconds)))
            if clients == 1:
                results["predictor x1"].append(_predict(predictor, images, seconds))
        for batch in RAW_BATCHES:
            results[f"raw x{batch}"].append(_run_session(predictor, images, batch, seconds))
    return results


async def _load(
    name: str, url: str, images: Sequence[bytes], clients: int, seconds: float
) -> tuple[float, list[Sample]]:
    started = time.perf_counter()
    field = "images" if name == "bentoml" else "image"  # a batchable method of BentoML takes a list
    samples = await closed_loop(url, images, clients, seconds, field=field)
    return time.perf_counter() - started, samples


def _predict(predictor: Predictor, images: Sequence[bytes], seconds: float) -> tuple[float, list[Sample]]:
    return _timed(lambda i: predictor.predict(predictor.decode(images[i % len(images)])[None]), seconds)


def _run_session(
    predictor: Predictor, images: Sequence[bytes], batch: int, seconds: float
) -> tuple[float, list[Sample]]:
    pixels = np.stack([predictor.decode(images[i % len(images)]) for i in range(batch)])
    spent, samples = _timed(lambda _: predictor.session.run(pixels), seconds)
    return spent, samples * batch


def _timed(call: Callable[[int], object], seconds: float) -> tuple[float, list[Sample]]:
    """Call with 0, 1, 2, ... for `seconds`."""
    samples: list[Sample] = []
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        call(len(samples))
        samples.append(Sample(at=now, seconds=time.perf_counter() - now, status=200))
    return time.perf_counter() - started, samples


def summarised(rounds: Rounds) -> dict[str, dict[str, Any]]:
    """Throughput, failures, percentiles and median stages of each case over all rounds."""
    figures = {}
    for case, runs in rounds.items():
        samples = [sample for _, run_samples in runs for sample in run_samples]
        seconds = [sample.seconds for sample in samples if sample.status == 200]
        if not seconds:
            raise SystemExit(f"serve: {case} never answered 200, only {sorted({s.status for s in samples})}")
        stages = {name for sample in samples for name in sample.stages}
        figures[case] = {
            "images_per_second": len(seconds) / sum(duration for duration, _ in runs),
            "failed": len(samples) - len(seconds),
            **{f"p{q}_ms": 1000 * float(np.quantile(seconds, q / 100)) for q in (50, 95, 99)},
            "stages_ms": {
                name: 1000 * float(np.median([s.stages[name] for s in samples if name in s.stages]))
                for name in ("upload", "decode", "queue", "compute")
                if name in stages
            },
        }
    return figures
