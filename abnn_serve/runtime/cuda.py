"""CUDA inference with fixed buffers and one CUDA graph per batch size, all warmed up at start."""

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
    GPU_LOCK,
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
    """Runs a graph on CUDA. A batch is padded to the next of `bucket_sizes`.

    Fixed batch sizes let cuDNN choose its algorithms once; a CUDA graph needs fixed addresses. GPU_LOCK serialises all
    engines of the process, also while one is created or freed.

    Raises:
        DeviceError: ONNX Runtime cannot use CUDA, for example because CUDA or cuDNN libraries are missing.
    """

    def __init__(self, model: bytes) -> None:
        self.providers: Sequence[Any] = _providers(graphs=False)
        with GPU_LOCK:
            try:
                self.session, self.graphs = open_graph(model, 1, _providers(graphs=True)), True
            except Exception as error:  # ORT refuses CUDA graphs if a node has to run on the CPU
                log.info("running without CUDA graphs: %s", error)
                self.session, self.graphs = open_graph(model, 1, self.providers), False
        require_provider(self.session, CUDA, _REMEDY)
        self.inputs, self.outputs = ports(self.session)
        self.placement = placement(self.session)
        self._buckets: list[_Bucket] = []
        for size in bucket_sizes(self.inputs[0].frames):
            with GPU_LOCK:  # per size, so that other engines can run in between
                bucket = _Bucket(self.session, self.inputs[0], self.outputs[0], size)
                for _ in range(3):  # allocate, capture, replay
                    bucket.run(np.zeros(bucket.shape, np.uint8))
            self._buckets.append(bucket)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        bucket = next(bucket for bucket in self._buckets if bucket.shape[0] >= len(images))
        with GPU_LOCK:
            return bucket.run(images)

    def __del__(self) -> None:
        with GPU_LOCK:  # freeing calls CUDA, too
            vars(self).clear()


def bucket_sizes(frames: int) -> list[int]:
    """Batch sizes for samples of `frames` frames: the powers of two below `max_batch`, and `max_batch`."""
    largest = max_batch(frames)
    return [*(1 << i for i in range((largest - 1).bit_length())), largest]


class _Bucket:
    """Buffers and CUDA graph of one batch size."""

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
        self._host[: len(images)] = images  # rows after these keep stale samples, which affect only their own outputs
        self._input.update_inplace(self._host)
        self._session.run_with_iobinding(self._binding, self._options)
        logits: NDArray[np.float32] = self._output.numpy()[: len(images)]
        return logits


def _providers(*, graphs: bool) -> list[Any]:
    settings = {
        "use_tf32": "0",  # TF32 would not be the fp32 that was measured
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search takes minutes for all buckets
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": str(int(graphs)),
    }
    return [(CUDA, settings), CPU]


def _lock_pages(buffer: NDArray[np.uint8]) -> None:
    """Page-lock a buffer until it is freed, which makes copies faster; on failure it stays pageable."""
    try:
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        address = ctypes.c_void_p(buffer.ctypes.data)
        code = runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), 0)
    except (AttributeError, OSError) as error:
        log.info("using pageable buffers: %s", error)
        return
    if code:
        log.info("using pageable buffers: cudaHostRegister returned error %s", code)
        return
    weakref.finalize(buffer, _unlock_pages, runtime, address).atexit = False  # at exit the driver unlocks them


def _unlock_pages(runtime: ctypes.CDLL, address: ctypes.c_void_p) -> None:
    with GPU_LOCK:
        runtime.cudaHostUnregister(address)
