"""Calls timed in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Call = Callable[[], object]

_LONG = 0.2  # seconds


def interleaved(cases: dict[str, Call], seconds: float, least_rounds: int = 4) -> dict[str, list[float]]:
    """Seconds of each call, the cases in turn; before a timed call one that is not, to bring its weights near.

    Long calls go without: in them the weights are read once and used many times.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < least_rounds:
        for name, call in cases.items():
            if not samples[name] or samples[name][-1] < _LONG:
                call()
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return samples


def medians(samples: dict[str, list[float]]) -> dict[str, float]:
    """The median of each case, seconds."""
    return {name: float(np.median(times)) for name, times in samples.items()}


def with_memory(make: Callable[[], Call]) -> tuple[Call, float]:
    """A case, and the megabytes of resident memory that making it and calling it once added to the process."""
    gc.collect()
    before = _resident()
    call = make()
    call()
    return call, _resident() - before


def _resident() -> float:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024
