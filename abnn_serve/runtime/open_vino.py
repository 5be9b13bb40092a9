"""OpenVINO on the CPU: the same file, faster in int8 and, where the CPU has it, in bf16."""

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
_SIZES = (8, 1)  # of which any batch is put together: shapes known beforehand are up to 1.6 times faster


class OpenVinoEngine:
    """A graph in OpenVINO's CPU plugin. Calls take turns: each batch size has one request.

    Raises:
        DeviceError: the extra `openvino` is not installed, or the CPU has no bf16 that was asked for.
    """

    providers: Sequence[Any] = (CPU,)

    def __init__(self, model: bytes, threads: int, *, bf16: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise DeviceError(
                "ABNN_DEVICE is 'openvino', which is not installed; pip install 'abnn_serve[openvino]', or set "
                "ABNN_DEVICE=cpu"
            ) from error
        core = openvino.Core()
        if bf16 and not bf16_is_there():
            raise DeviceError("ABNN_PRECISION is 'bf16', which this CPU does not have; set ABNN_PRECISION=fp32 or int8")
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # workers beside each other would be pinned to the same cores
        }
        graph = core.read_model(model)
        self.inputs, self.outputs = (tuple(_port(node) for node in nodes) for nodes in (graph.inputs, graph.outputs))
        self.placement = {NAME: dict(sorted(Counter(node.get_type_name() for node in graph.get_ops()).items()))}
        self._requests = {}
        for size in _SIZES:
            graph.reshape([size, *self.inputs[0].shape[1:]])
            self._requests[size] = core.compile_model(graph, "CPU", settings).create_infer_request()
        self._turn = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts, start = [], 0
        with self._turn:
            while start < len(images):
                size = next(size for size in _SIZES if size <= len(images) - start)
                request = self._requests[size]
                request.infer({0: images[start : start + size]}, share_inputs=True)
                parts.append(request.get_output_tensor().data.copy())
                start += size
        return np.concatenate(parts)


def openvino_is_there() -> bool:
    """Whether the extra `openvino` is there."""
    return importlib.util.find_spec("openvino") is not None


def bf16_is_there() -> bool:
    """Whether this CPU computes in bf16; OpenVINO must be installed."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _port(node: object) -> Port:
    shape = tuple(d.get_length() if d.is_static else None for d in node.get_partial_shape())  # type: ignore[attr-defined]
    dtype = node.get_element_type().to_dtype().name  # type: ignore[attr-defined]
    return Port(node.get_any_name(), dtype, shape)  # type: ignore[attr-defined]
