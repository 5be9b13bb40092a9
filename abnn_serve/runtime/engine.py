"""What runs a graph: the interface, and ONNX Runtime behind it as it is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from abnn_serve.errors import DeviceError

CPU = "CPUExecutionProvider"
GPU_TURN = threading.RLock()  # a CUDA graph cannot be captured beside another thread's CUDA calls
_MAX_FRAMES = 64
_SEVERITY_ERROR = 3


def max_batch(frames: int = 1) -> int:
    """Samples in one run: 64 pictures, or clips of as many frames together, one at least."""
    return max(1, _MAX_FRAMES // frames)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph; a dynamic dimension is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def frames(self) -> int:
        """Frames of one sample: clips are (N, T, H, W, 3), pictures (N, H, W, 3)."""
        return (self.shape[1] or 1) if len(self.shape) == 5 else 1

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join('N' if d is None else str(d) for d in self.shape)})"


class Engine(Protocol):
    """A graph ready to run.

    Attributes:
        inputs, outputs: what the graph declares.
        placement: how many nodes of each kind run on which provider, the one with most nodes first.
        providers: with which ONNX Runtime runs another graph in the same place and with the same arithmetic.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    placement: dict[str, dict[str, int]]
    providers: Sequence[Any]

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, ...), contiguous, N from 1 to `max_batch` of its frames, to logits, float32 (N, classes)."""


class OnnxEngine:
    """ONNX Runtime on `providers`, first the one that is wanted."""

    def __init__(self, model: bytes, threads: int, providers: Sequence[Any] = (CPU,)) -> None:
        self.providers: Sequence[Any] = providers
        with turn(providers):
            self.session = open_graph(model, threads, providers)
        self.inputs, self.outputs = ports(self.session)
        self.placement = placement(self.session)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run_all(images)[0]

    def run_all(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Every output of the graph."""
        with turn(self.providers):
            outputs: list[NDArray[np.float32]] = self.session.run(None, {self.inputs[0].name: images})
        return outputs


def turn(providers: Sequence[Any]) -> AbstractContextManager[object]:
    """To be held while a session on `providers` is opened or run: all that use the GPU take turns."""
    return nullcontext() if list(providers) == [CPU] else GPU_TURN


def open_graph(model: bytes, threads: int, providers: Sequence[Any] = (CPU,)) -> ort.InferenceSession:
    """A serialised graph in ONNX Runtime, with the options that serving uses."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # without ONNX Runtime's own fallback, which would hide why a provider fails
    return ort.InferenceSession(model, options, providers=list(providers), enable_fallback=0)


def require_provider(session: ort.InferenceSession, wanted: str, remedy: str) -> None:
    """DeviceError unless a session has a provider: without its libraries ONNX Runtime quietly opens others."""
    opened = session.get_providers()
    if wanted not in opened:
        raise DeviceError(f"ONNX Runtime opened {' and '.join(opened)}, expected {wanted}; {remedy}")


def ports(session: ort.InferenceSession) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a session."""
    dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    inputs, outputs = (
        tuple(
            Port(n.name, dtypes.get(n.type, n.type), tuple(d if isinstance(d, int) else None for d in n.shape))
            for n in nodes
        )
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def placement(session: ort.InferenceSession) -> dict[str, dict[str, int]]:
    """How many nodes of each kind run on which provider, as ONNX Runtime assigned them."""
    found: dict[str, Counter[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        found.setdefault(subgraph.ep_name, Counter()).update(node.op_type for node in subgraph.get_nodes())
    return {name: dict(sorted(found[name].items())) for name in sorted(found, key=lambda n: -found[n].total())}
