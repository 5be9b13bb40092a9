"""Replays golden vectors in a session: every batch size, shuffled; among noise; and from a second thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.golden import Golden
from abnn_serve.doctor.report import Latency
from abnn_serve.errors import DeviceError

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

ROUNDS = 100
_RANDOM_FRAMES = 512
_LEAST_ROUNDS = 2  # also if time is short
_CAPTURE_RATIO, _CAPTURE_SECONDS = 5, 0.05  # capturing plans every convolution anew; a replay takes milliseconds


def batch_sizes(largest: int) -> list[int]:
    """The powers of two below `largest`, and `largest`: the sizes that engines keep buffers for."""
    return [*(1 << i for i in range((largest - 1).bit_length())), largest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Result of `replay_shuffled`: how many rounds ran, the largest difference from the golden logits, and times."""

    rounds: int
    error: float
    latencies: tuple[Latency, ...]


def replay_shuffled(
    run: Run, golden: Golden, largest: int, rng: np.random.Generator, *, seconds: float, rounds: int = ROUNDS
) -> Replay:
    """Run golden samples, chosen at random, at every batch size in a new order each round.

    Args:
        run: from uint8 (N, ...) to logits, float32 (N, classes).
        golden: samples and their logits.
        largest: largest batch size.
        rng: of the order and the choice.
        seconds: stop after the round in which this time has passed.
        rounds: stop after this many.
    """
    times: dict[int, list[float]] = {size: [] for size in batch_sizes(largest)}
    error, done, end = 0.0, 0, time.perf_counter() + seconds
    while done < rounds and (done < _LEAST_ROUNDS or time.perf_counter() < end):
        for size in rng.permutation(list(times)).tolist():
            chosen = rng.integers(0, len(golden.inputs), size)
            images = np.ascontiguousarray(golden.inputs[chosen])
            started = time.perf_counter()
            logits = run(images)
            times[size].append(time.perf_counter() - started)
            error = worst(error, logits, golden.logits[chosen])
        done += 1
    latencies = tuple(
        Latency(batch=size, p50=float(np.percentile(each, 50)), p95=float(np.percentile(each, 95)))
        for size, each in times.items()
    )
    return Replay(rounds=done, error=error, latencies=latencies)


def neighbour_error(run: Run, golden: Golden, largest: int, rng: np.random.Generator) -> float:
    """Largest difference between a sample's logits alone and first or last among noise, at batches that are padded too.

    Args as for `replay_shuffled`.
    """
    alone = run(np.ascontiguousarray(golden.inputs[:1]))
    error = 0.0
    for size in sorted({each for power in batch_sizes(largest) for each in (power - 1, power) if each > 0}):
        for position in {0, size - 1}:
            images = rng.integers(0, 256, (size, *golden.inputs.shape[1:]), np.uint8)
            images[position] = golden.inputs[0]
            error = worst(error, run(images)[position : position + 1], alone)
    return error


def cpu_error(run: Run, cpu: Run, shape: tuple[int, ...], rng: np.random.Generator, *, frames: int) -> float:
    """Largest difference from the logits of `cpu` on random images.

    Args:
        run: from uint8 (N, ...) to logits, any N.
        cpu: as `run`, on the CPU.
        shape: of a sample.
        rng: of the pixels.
        frames: of a sample; 512 frames are compared in all.
    """
    images = rng.integers(0, 256, (max(1, _RANDOM_FRAMES // frames), *shape), np.uint8)
    return worst(0.0, run(images), cpu(images))


def replay_in_thread(run: Run, golden: Golden, largest: int) -> tuple[float, dict[int, float]]:
    """Run every batch size once in a new thread.

    Returns:
        the largest difference from the golden logits, and the seconds of each size.
    """

    def work() -> tuple[float, dict[int, float]]:
        error, seconds = 0.0, {}
        for size in batch_sizes(largest):
            chosen = np.arange(size) % len(golden.inputs)
            images = np.ascontiguousarray(golden.inputs[chosen])
            started = time.perf_counter()
            logits = run(images)
            seconds[size] = time.perf_counter() - started
            error = worst(error, logits, golden.logits[chosen])
        return error, seconds

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def count_captures(first: dict[int, float], latencies: tuple[Latency, ...]) -> int:
    """How many batch sizes were slow enough in a new thread to have been captured again; `first` is in seconds."""
    return sum(first[at.batch] > max(_CAPTURE_RATIO * at.p95, at.p95 + _CAPTURE_SECONDS) for at in latencies)


def worst(error: float, logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The larger of `error` and the largest difference; DeviceError if a logit is not finite."""
    difference = float(np.abs(logits - expected).max())
    if not np.isfinite(difference):
        raise DeviceError("logits are not finite; choose another device or precision")
    return max(error, difference)
