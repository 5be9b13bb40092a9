"""CUDA: fixed buffers for each batch size, one CUDA graph for each, all warmed before the first answer."""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import DeviceError, DeviceLostError, one_line
from abnn_serve.runtime.cuda_library import clear_error, cuda_runtime, device_is_lost
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
from abnn_serve.runtime.gpu_thread import GpuThread

log = logging.getLogger("abnn_serve")

CUDA = "CUDAExecutionProvider"
GRAPHS_SINCE = (1, 30)  # of onnxruntime-gpu
_PLAIN_BATCH = 8  # without CUDA graphs: cuDNN plans only the last shape that it saw
_REMEDY = "install its CUDA and cuDNN libraries: pip install 'abnn_serve[cuda]', or set ABNN_DEVICE=cpu"


class CudaEngine:
    """A graph on CUDA; a batch is padded to the next of `bucket_sizes`, whose buffers and CUDA graph are reused.

    Fixed sizes keep cuDNN from searching again at every new batch, fixed addresses are what a CUDA graph needs. A graph
    that ONNX Runtime cannot capture runs in batches of `_PLAIN_BATCH`, padded. The session lives in a thread of its
    own; all engines of the process take turns, also while one is opened or freed.

    Attributes:
        graphs: whether runs replay CUDA graphs.

    Raises:
        DeviceError: ONNX Runtime cannot run the graph on CUDA.
    """

    def __init__(self, model: bytes) -> None:
        self.providers: Sequence[Any] = _providers(graphs=False)
        self._thread = GpuThread()
        self._loaded = self._thread.run(_load, model)
        self.graphs = self._loaded.graphs
        self.inputs, self.outputs = self._loaded.inputs, self._loaded.outputs
        self.placement = self._loaded.placement

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run_all(images)[0]

    def run_all(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Every output of the graph.

        Raises:
            DeviceLostError: CUDA fails until the process ends.
        """
        return self._thread.run(self._loaded.run, images)

    def __del__(self) -> None:
        state = vars(self)
        contents = [state.pop("_loaded", None)]
        if (thread := state.pop("_thread", None)) is not None:
            thread.close(contents)


class _Loaded:
    """A session and its buckets; used in their engine's thread only."""

    def __init__(self, model: bytes, *, graphs: bool) -> None:
        with GPU_TURN:
            self.session = open_graph(model, 1, _providers(graphs=graphs))
        require_provider(self.session, CUDA, _REMEDY)
        self.graphs = graphs
        self.inputs, self.outputs = ports(self.session)
        self.placement = placement(self.session)
        self.buckets: list[_Bucket] = []
        sizes = bucket_sizes(self.inputs[0].frames)
        for size in sizes if graphs else [min(_PLAIN_BATCH, sizes[-1])]:
            with GPU_TURN:  # not for all sizes at once: engines that answer run in between
                bucket = _Bucket(self.session, self.inputs[0], self.outputs, size)
                for _ in range(3):  # allocate, capture, replay
                    bucket.run(np.zeros(bucket.shape, np.uint8))
            self.buckets.append(bucket)

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Every output for a batch of any size, in pieces of the largest bucket."""
        parts = []
        for batch in batch_slices(len(images), self.buckets[-1].shape[0]):
            piece = images[batch]
            bucket = next(bucket for bucket in self.buckets if bucket.shape[0] >= len(piece))
            with GPU_TURN:
                try:
                    parts.append(bucket.run(piece))
                except Exception as error:
                    if device_is_lost():
                        raise DeviceLostError(
                            f"the GPU no longer works in this process: {one_line(error)}; restart it"
                        ) from None
                    raise
        return parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]


def _load(model: bytes) -> _Loaded:
    """With CUDA graphs where ONNX Runtime can capture this graph, else without."""
    reason = ""
    for graphs in (True, False) if _replays_are_sound() else (False,):
        try:
            return _Loaded(model, graphs=graphs)
        except DeviceError:
            raise
        except Exception as error:  # ORT's exception classes share no base of their own
            reason = one_line(error)
            log.info("CUDA %s graphs: %s", "with" if graphs else "without", reason)
        with suppress(AttributeError, OSError):
            clear_error(cuda_runtime())
    # raised here, where no traceback keeps the session from being freed in this thread
    raise DeviceError(f"ONNX Runtime fails on this GPU: {reason}; see nvidia-smi, or set ABNN_DEVICE=cpu")


def _replays_are_sound() -> bool:
    """Before 1.30 replays of Split and Concat read another bucket's pointers (microsoft/onnxruntime 32121)."""
    return tuple(int(part) for part in ort.__version__.split(".")[:2]) >= GRAPHS_SINCE


def bucket_sizes(frames: int) -> list[int]:
    """Powers of two below `max_batch`, and that."""
    largest = max_batch(frames)
    return [*(1 << i for i in range((largest - 1).bit_length())), largest]


class _Bucket:
    """Buffers of one batch size, bound once."""

    def __init__(self, session: ort.InferenceSession, source: Port, sinks: Sequence[Port], size: int) -> None:
        self.shape = (size, *(dimension or 1 for dimension in source.shape[1:]))
        self._session = session
        self._host = np.zeros(self.shape, np.uint8)
        _lock_pages(self._host)
        self._input = ort.OrtValue.ortvalue_from_shape_and_type(self.shape, np.uint8, "cuda", 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(source.name, self._input)
        self._outputs = []
        for sink in sinks:
            shape = (size, *_known_shape(sink))
            output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
            self._binding.bind_ortvalue_output(sink.name, output)
            self._outputs.append(output)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        self._host[: len(images)] = images  # what lies behind is another batch's; samples do not mix
        self._input.update_inplace(self._host)
        self._session.run_with_iobinding(self._binding, self._options)
        return [output.numpy()[: len(images)] for output in self._outputs]


def _known_shape(sink: Port) -> list[int]:
    """The dimensions of one sample's output; its buffer is allocated once, so they must be known."""
    shape = [dimension for dimension in sink.shape[1:] if dimension is not None]
    if len(shape) != len(sink.shape) - 1:
        raise DeviceError(f"output {sink} has a shape that depends on its input; set ABNN_DEVICE=cpu for this graph")
    return shape


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
        runtime = cuda_runtime()
        address = ctypes.c_void_p(buffer.ctypes.data)
        code = runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), 0)
    except (AttributeError, OSError) as error:
        log.info("pageable buffers: %s", error)
        return
    if code:
        log.info("pageable buffers: cudaHostRegister gives error %s", code)
        clear_error(runtime)
        return
    weakref.finalize(buffer, _unlock_pages, runtime, address).atexit = False  # the driver unlocks an ended process's


def _unlock_pages(runtime: ctypes.CDLL, address: ctypes.c_void_p) -> None:
    with GPU_TURN:
        runtime.cudaHostUnregister(address)
