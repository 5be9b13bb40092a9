"""Interleaved timing: other load on the machine hits all cases alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np

Call = Callable[[], object]

_LONG = 0.2  # seconds


def interleaved(
    cases: dict[str, Call], seconds: float, least_rounds: int = 4, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time the cases in turn, for at least `seconds` and `least_rounds` rounds.

    Each timed call follows an untimed one, which brings its weights into the cache. Calls of more than 0.2 s skip that
    after the first round: they read their weights once and use them many times.

    Returns:
        For each case, the seconds of its calls by `clock`.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < least_rounds:
        for name, call in cases.items():
            if not samples[name] or samples[name][-1] < _LONG:
                call()
            start = clock()
            call()
            samples[name].append(clock() - start)
    return samples


def medians(samples: dict[str, list[float]]) -> dict[str, float]:
    """The median of each case, in seconds."""
    return {name: float(np.median(times)) for name, times in samples.items()}


def with_memory(make: Callable[[], Call], used: Callable[[], int | None]) -> tuple[Call, float]:
    """Make a case and call it once; also return the megabytes that this added to `used`, which is in bytes."""
    gc.collect()
    before = used() or 0
    call = make()
    call()
    return call, ((used() or 0) - before) / 2**20
