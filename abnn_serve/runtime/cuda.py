"""CUDA inference with fixed buffers and one CUDA graph per batch size, all warmed up at start."""

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
from abnn_serve.runtime.cuda_library import clear_error, cuda_runtime, device_is_lost, use_gpu
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
from abnn_serve.runtime.gpu_thread import GpuThread

log = logging.getLogger("abnn_serve")

CUDA = "CUDAExecutionProvider"
GRAPHS_SINCE = (1, 30)  # of onnxruntime-gpu
_PLAIN_BATCH = 8  # without CUDA graphs there is one size: cuDNN keeps the plan of the last shape only
_REMEDY = "install its CUDA and cuDNN libraries: pip install 'abnn_serve[cuda]', or set ABNN_DEVICE=cpu"


class CudaEngine:
    """Runs a graph on a GPU, counted from 0. A batch is padded to the next of `batches`, by default `bucket_sizes`.

    Fixed batch sizes let cuDNN choose its algorithms once; a CUDA graph needs fixed addresses. If ONNX Runtime cannot
    capture the graph, it runs in padded batches of `_PLAIN_BATCH`. Each engine has its own thread; GPU_LOCK serialises
    all engines of the process, also while one is created or freed.

    Attributes:
        graphs: whether runs replay CUDA graphs.

    Raises:
        DeviceError: ONNX Runtime cannot run the graph on CUDA, for example because CUDA or cuDNN libraries are missing.
    """

    def __init__(self, model: bytes, gpu: int = 0, batches: Sequence[int] | None = None) -> None:
        self.providers: Sequence[Any] = _providers(graphs=False, gpu=gpu)
        self._thread = GpuThread()
        self._loaded = self._thread.run(_load, with_fewer_kernels(model), gpu, batches)
        self.graphs = self._loaded.graphs
        self.inputs, self.outputs = self._loaded.inputs, self._loaded.outputs
        self.placement = self._loaded.placement

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run_all(images)[0]

    def run_all(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute all outputs of the graph, in its order.

        Raises:
            DeviceLostError: the GPU failed, and only a new process can use it again.
        """
        return self._thread.run(self._loaded.run, images)

    def __del__(self) -> None:
        state = vars(self)
        contents = [state.pop("_loaded", None)]
        if (thread := state.pop("_thread", None)) is not None:
            thread.close(contents)


class _Loaded:
    """A session and its buckets, for use in their engine's thread only."""

    def __init__(self, model: bytes, gpu: int, batches: Sequence[int] | None, *, graphs: bool) -> None:
        with GPU_LOCK:
            if gpu:  # the first is CUDA's default
                use_gpu(gpu)
            self.session = open_graph(model, 1, _providers(graphs=graphs, gpu=gpu))
        require_provider(self.session, CUDA, _REMEDY)
        self.graphs = graphs
        self.inputs, self.outputs = ports(self.session)
        self.placement = placement(self.session)
        self.buckets: list[_Bucket] = []
        sizes = sorted(batches) if batches else bucket_sizes(self.inputs[0].frames)
        for size in reversed(sizes) if graphs else [min(_PLAIN_BATCH, sizes[-1])]:  # smaller ones reuse its memory
            with GPU_LOCK:  # per size, so that other engines can run in between
                bucket = _Bucket(self.session, self.inputs[0], self.outputs, size, gpu)
                for _ in range(3):  # allocate, capture, replay
                    bucket.run(np.zeros(bucket.shape, np.uint8))
            self.buckets.insert(0, bucket)

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute all outputs for a batch of any size, in pieces of at most the largest bucket."""
        parts = []
        for batch in batch_slices(len(images), self.buckets[-1].shape[0]):
            piece = images[batch]
            bucket = next(bucket for bucket in self.buckets if bucket.shape[0] >= len(piece))
            with GPU_LOCK:
                try:
                    parts.append(bucket.run(piece))
                except Exception as error:
                    if device_is_lost():
                        raise DeviceLostError(
                            f"the GPU no longer works in this process: {one_line(error)}; restart it"
                        ) from None
                    raise
        return parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]


def _load(model: bytes, gpu: int, batches: Sequence[int] | None) -> _Loaded:
    """Load with CUDA graphs if ONNX Runtime can capture this graph, otherwise without."""
    reason = ""
    for graphs in (True, False) if can_replay() else (False,):
        try:
            return _Loaded(model, gpu, batches, graphs=graphs)
        except DeviceError:
            raise
        except Exception as error:  # ORT's exceptions have no common base class
            reason = one_line(error)
            log.info("CUDA fails %s CUDA graphs: %s", "with" if graphs else "without", reason)
        with suppress(AttributeError, OSError):
            clear_error(cuda_runtime())
    # raised outside the except block: a traceback would keep the session alive, to be freed in another thread
    raise DeviceError(f"ONNX Runtime fails on this GPU: {reason}; check nvidia-smi, or set ABNN_DEVICE=cpu")


def with_fewer_kernels(model: bytes) -> bytes:
    """Rewrite a graph for CUDA if onnx-ir is installed, as it is with `abnn_serve[cuda]`; its logits stay."""
    try:
        from abnn_serve.runtime.rewrites.for_cuda import rewrite_for_cuda
    except ImportError as error:
        log.info("opening the graph as exported: %s; pip install 'abnn_serve[cuda]' rewrites it", error)
        return model
    try:
        return rewrite_for_cuda(model)
    except Exception as error:  # graphs of other programs may hold anything; ONNX Runtime says what it cannot open
        log.warning("opening the graph as exported: rewriting it for CUDA failed: %s", one_line(error))
        return model


def can_replay() -> bool:
    """Before 1.30, replays of Split and Concat read another bucket's pointers (microsoft/onnxruntime 32121)."""
    return tuple(int(part) for part in ort.__version__.split(".")[:2]) >= GRAPHS_SINCE


def bucket_sizes(frames: int) -> list[int]:
    """Batch sizes for samples of `frames` frames: the powers of two below `max_batch`, and `max_batch`."""
    largest = max_batch(frames)
    return [*(1 << i for i in range((largest - 1).bit_length())), largest]


class _Bucket:
    """Buffers and CUDA graph of one batch size."""

    def __init__(self, session: ort.InferenceSession, source: Port, sinks: Sequence[Port], size: int, gpu: int) -> None:
        self.shape = (size, *(dimension or 1 for dimension in source.shape[1:]))
        self._session = session
        self._host = np.zeros(self.shape, source.dtype)
        _lock_pages(self._host)
        self._input = ort.OrtValue.ortvalue_from_shape_and_type(self.shape, self._host.dtype.type, "cuda", gpu)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(source.name, self._input)
        self._outputs = []
        for sink in sinks:
            shape = (size, *_known_shape(sink))
            output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", gpu)
            self._binding.bind_ortvalue_output(sink.name, output)
            self._outputs.append(output)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        self._host[: len(images)] = images  # rows after these keep stale samples, which affect only their own outputs
        self._input.update_inplace(self._host)
        self._session.run_with_iobinding(self._binding, self._options)
        return [output.numpy()[: len(images)] for output in self._outputs]


def _known_shape(sink: Port) -> list[int]:
    """Shape of one sample's output; DeviceError if it is not fixed, as buffers are allocated once."""
    shape = [dimension for dimension in sink.shape[1:] if dimension is not None]
    if len(shape) != len(sink.shape) - 1:
        raise DeviceError(f"output {sink} has a shape that depends on its input; set ABNN_DEVICE=cpu for this graph")
    return shape


def _providers(*, graphs: bool, gpu: int = 0) -> list[Any]:
    settings = {
        "device_id": str(gpu),
        "use_tf32": "0",  # TF32 would not be the fp32 that was measured
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search takes minutes for all buckets
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles what it holds
        "fuse_conv_bias": "1",  # one kernel for a convolution and its bias
        "enable_cuda_graph": str(int(graphs)),
    }
    return [(CUDA, settings), CPU]


def _lock_pages(buffer: NDArray[np.uint8]) -> None:
    """Page-lock a buffer until it is freed, which makes copies faster; on failure it stays pageable."""
    try:
        runtime = cuda_runtime()
        address = ctypes.c_void_p(buffer.ctypes.data)
        code = runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), 0)
    except (AttributeError, OSError) as error:
        log.info("using pageable buffers: %s", error)
        return
    if code:
        log.info("using pageable buffers: cudaHostRegister returned error %s", code)
        clear_error(runtime)
        return
    weakref.finalize(buffer, _unlock_pages, runtime, address).atexit = False  # at exit the driver unlocks them


def _unlock_pages(runtime: ctypes.CDLL, address: ctypes.c_void_p) -> None:
    with GPU_LOCK:
        runtime.cudaHostUnregister(address)
