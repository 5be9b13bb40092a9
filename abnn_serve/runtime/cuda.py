"""CUDA: fixed buffers for each batch size, one CUDA graph for each, all warmed before the first answer."""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from abnn_serve.runtime.engine import (
    CPU,
    GPU_TURN,
    Port,
    max_batch,
    open_graph,
    placement,
    ports,
    require_provider,
)

log = logging.getLogger("abnn_serve")

CUDA = "CUDAExecutionProvider"
_REMEDY = "install its CUDA and cuDNN libraries: pip install 'abnn_serve[cuda]', or set ABNN_DEVICE=cpu"


class CudaEngine:
    """A graph on CUDA; a batch is padded to the next of `bucket_sizes`, whose buffers and CUDA graph are reused.

    Fixed sizes keep cuDNN from searching again at every new batch, fixed addresses are what a CUDA graph needs. All
    engines of the process take turns, also while one is made or freed.

    Raises:
        DeviceError: ONNX Runtime cannot use CUDA, as where its libraries are not installed.
    """

    def __init__(self, model: bytes) -> None:
        self.providers: Sequence[Any] = _providers(graphs=False)
        with GPU_TURN:
            try:
                self.session, self.graphs = open_graph(model, 1, _providers(graphs=True)), True
            except Exception as error:  # ORT refuses where a node has to run on the CPU
                log.info("without CUDA graphs: %s", error)
                self.session, self.graphs = open_graph(model, 1, self.providers), False
        require_provider(self.session, CUDA, _REMEDY)
        self.inputs, self.outputs = ports(self.session)
        self.placement = placement(self.session)
        self._buckets: list[_Bucket] = []
        for size in bucket_sizes(self.inputs[0].frames):
            with GPU_TURN:  # not for all sizes at once: engines that answer run in between
                bucket = _Bucket(self.session, self.inputs[0], self.outputs[0], size)
                for _ in range(3):  # allocate, capture, replay
                    bucket.run(np.zeros(bucket.shape, np.uint8))
            self._buckets.append(bucket)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        bucket = next(bucket for bucket in self._buckets if bucket.shape[0] >= len(images))
        with GPU_TURN:
            return bucket.run(images)

    def __del__(self) -> None:
        with GPU_TURN:  # freeing is a CUDA call too
            vars(self).clear()


def bucket_sizes(frames: int) -> list[int]:
    """Powers of two below `max_batch`, and that."""
    largest = max_batch(frames)
    return [*(1 << i for i in range((largest - 1).bit_length())), largest]


class _Bucket:
    """Buffers of one batch size, bound once."""

    def __init__(self, session: ort.InferenceSession, source: Port, sink: Port, size: int) -> None:
        self.shape = (size, *(dimension or 1 for dimension in source.shape[1:]))
        self._session = session
        self._host = np.zeros(self.shape, np.uint8)
        _lock_pages(self._host)
        self._input = ort.OrtValue.ortvalue_from_shape_and_type(self.shape, np.uint8, "cuda", 0)
        self._output = ort.OrtValue.ortvalue_from_shape_and_type((size, sink.shape[1]), np.float32, "cuda", 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(source.name, self._input)
        self._binding.bind_ortvalue_output(sink.name, self._output)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._host[: len(images)] = images  # what lies behind is another batch's; samples do not mix
        self._input.update_inplace(self._host)
        self._session.run_with_iobinding(self._binding, self._options)
        logits: NDArray[np.float32] = self._output.numpy()[: len(images)]
        return logits


def _providers(*, graphs: bool) -> list[Any]:
    settings = {
        "use_tf32": "0",  # fp32 means what was measured
        "cudnn_conv_algo_search": "HEURISTIC",  # exhaustive search takes minutes over all buckets
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": str(int(graphs)),
    }
    return [(CUDA, settings), CPU]


def _lock_pages(buffer: NDArray[np.uint8]) -> None:
    """Keep a buffer in place for direct copies while it lives; else they go through the CUDA runtime's own."""
    try:
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        address = ctypes.c_void_p(buffer.ctypes.data)
        code = runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), 0)
    except (AttributeError, OSError) as error:
        log.info("pageable buffers: %s", error)
        return
    if code:
        log.info("pageable buffers: cudaHostRegister gives error %s", code)
        return
    weakref.finalize(buffer, _unlock_pages, runtime, address).atexit = False  # the driver unlocks an ended process's


def _unlock_pages(runtime: ctypes.CDLL, address: ctypes.c_void_p) -> None:
    with GPU_TURN:
        runtime.cudaHostUnregister(address)
