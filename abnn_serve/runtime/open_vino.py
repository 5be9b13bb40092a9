"""Inference in OpenVINO on the CPU: faster than ONNX Runtime in int8, and in bf16 if the CPU supports it."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import DeviceError
from abnn_serve.runtime.engine import CPU, Port

NAME = "OpenVINO"
_SIZES = (8, 1)  # every batch is split into these: static shapes are up to 1.6 times faster


class OpenVinoEngine:
    """Runs a graph in OpenVINO's CPU plugin; a lock serialises calls.

    Raises:
        DeviceError: OpenVINO is not installed, or the CPU does not support bf16.
    """

    providers: Sequence[Any] = (CPU,)

    def __init__(self, model: bytes, threads: int, *, bf16: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise DeviceError(
                "ABNN_DEVICE is 'openvino', but OpenVINO is not installed; pip install 'abnn_serve[openvino]', or set "
                "ABNN_DEVICE=cpu"
            ) from error
        core = openvino.Core()
        if bf16 and not has_bf16():
            raise DeviceError(
                "ABNN_PRECISION is 'bf16', but this CPU does not support it; set ABNN_PRECISION=fp32 or int8"
            )
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # several workers would be pinned to the same cores
        }
        graph = core.read_model(model)
        self.inputs, self.outputs = (tuple(_port(node) for node in nodes) for nodes in (graph.inputs, graph.outputs))
        self.placement = {NAME: dict(sorted(Counter(node.get_type_name() for node in graph.get_ops()).items()))}
        self._requests = {}
        for size in _SIZES:
            graph.reshape([size, *self.inputs[0].shape[1:]])
            self._requests[size] = core.compile_model(graph, "CPU", settings).create_infer_request()
        self._lock = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts, start = [], 0
        with self._lock:
            while start < len(images):
                size = next(size for size in _SIZES if size <= len(images) - start)
                request = self._requests[size]
                request.infer({0: images[start : start + size]}, share_inputs=True)
                parts.append(request.get_output_tensor().data.copy())
                start += size
        return np.concatenate(parts)


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this CPU; OpenVINO must be installed."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _port(node: object) -> Port:
    shape = tuple(d.get_length() if d.is_static else None for d in node.get_partial_shape())  # type: ignore[attr-defined]
    dtype = node.get_element_type().to_dtype().name  # type: ignore[attr-defined]
    return Port(node.get_any_name(), dtype, shape)  # type: ignore[attr-defined]
