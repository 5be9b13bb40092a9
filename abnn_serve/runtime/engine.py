"""The interface of inference engines, and the plain ONNX Runtime engine."""

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
GPU_LOCK = threading.RLock()  # capturing a CUDA graph fails if another thread calls CUDA meanwhile
_MAX_FRAMES = 64
_SEVERITY_ERROR = 3


def max_batch(frames: int = 1) -> int:
    """Largest batch per run, for samples of `frames` frames: 64 frames in all, but at least one sample."""
    return max(1, _MAX_FRAMES // frames)


@dataclass(frozen=True, slots=True)
class Port:
    """Signature of a graph's input or output; a dynamic dimension is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def frames(self) -> int:
        """Frames per sample: T for clips (N, T, H, W, 3), 1 for images (N, H, W, 3)."""
        return (self.shape[1] or 1) if len(self.shape) == 5 else 1

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join('N' if d is None else str(d) for d in self.shape)})"


class Engine(Protocol):
    """A loaded graph.

    Attributes:
        inputs, outputs: signatures of the graph's inputs and outputs.
        placement: number of nodes by provider and operator; the provider with the most nodes comes first.
        providers: ONNX Runtime providers that run another graph on the same device with the same arithmetic.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    placement: dict[str, dict[str, int]]
    providers: Sequence[Any]

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute logits, float32 (N, classes), of contiguous uint8 (N, ...), 1 <= N <= `max_batch(frames)`."""


class OnnxEngine:
    """ONNX Runtime on `providers`, the preferred one first."""

    def __init__(self, model: bytes, threads: int, providers: Sequence[Any] = (CPU,)) -> None:
        self.providers: Sequence[Any] = providers
        with gpu_lock(providers):
            self.session = open_graph(model, threads, providers)
        self.inputs, self.outputs = ports(self.session)
        self.placement = placement(self.session)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run_all(images)[0]

    def run_all(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute all outputs of the graph, in its order."""
        with gpu_lock(self.providers):
            outputs: list[NDArray[np.float32]] = self.session.run(None, {self.inputs[0].name: images})
        return outputs


def gpu_lock(providers: Sequence[Any]) -> AbstractContextManager[object]:
    """The lock to hold while a session on `providers` is created or run: GPU_LOCK, or none on the CPU."""
    return nullcontext() if list(providers) == [CPU] else GPU_LOCK


def open_graph(model: bytes, threads: int, providers: Sequence[Any] = (CPU,)) -> ort.InferenceSession:
    """Load a serialised graph in ONNX Runtime with the service's options."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # ONNX Runtime's fallback would hide why a provider fails
    return ort.InferenceSession(model, options, providers=list(providers), enable_fallback=0)


def require_provider(session: ort.InferenceSession, wanted: str, remedy: str) -> None:
    """Check that a session uses a provider: if its libraries are missing, ONNX Runtime silently uses another.

    Raises:
        DeviceError: it does not; the message ends with `remedy`.
    """
    providers = session.get_providers()
    if wanted not in providers:
        raise DeviceError(f"ONNX Runtime opened {' and '.join(providers)}, expected {wanted}; {remedy}")


def ports(session: ort.InferenceSession) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Signatures of a session's inputs and outputs."""
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
    """Number of nodes by provider and operator, as ONNX Runtime assigned them."""
    counts: dict[str, Counter[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        counts.setdefault(subgraph.ep_name, Counter()).update(node.op_type for node in subgraph.get_nodes())
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts, key=lambda n: -counts[n].total())}
