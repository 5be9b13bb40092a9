"""Times the graph after each pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from abnn_serve.export.passes import Stage
from abnn_serve.runtime.engine import open_graph

_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The cost of a stage: its nodes, its median seconds per run, and their ratio to those of the exported graph."""

    name: str
    nodes: int
    seconds: float
    ratio: float


def measure_gains(stages: Sequence[Stage], image: NDArray[np.uint8], *, seconds: float = _SECONDS) -> list[Gain]:
    """Time all stages on one CPU thread, taking turns.

    Args:
        stages: of one graph, the first as torch exported it.
        image: uint8 (1, [T,] H, W, 3).
        seconds: approximate time to spend on each stage.
    """
    sessions = [open_graph(stage.model, 1) for stage in stages]
    samples: list[list[float]] = []
    end = time.perf_counter() + seconds * len(stages)
    while time.perf_counter() < end or len(samples) < 3:
        samples.append([_timed(session, image) for session in sessions])
    medians = np.median(np.asarray(samples[1:]), axis=0)  # the first round warms up
    return [
        Gain(name=stage.name, nodes=stage.nodes, seconds=float(median), ratio=float(median / medians[0]))
        for stage, median in zip(stages, medians, strict=True)
    ]


def _timed(session: ort.InferenceSession, image: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    session.run(None, {session.get_inputs()[0].name: image})
    return time.perf_counter() - start
