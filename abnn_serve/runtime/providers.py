"""Chooses the inference engine for a device, and checks that the graph runs where it should."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from abnn_serve.errors import DeviceError, one_line
from abnn_serve.runtime.cuda import CUDA, CudaEngine
from abnn_serve.runtime.cuda_library import cuda_problem, preload_libraries
from abnn_serve.runtime.engine import CPU, Engine, OnnxEngine, max_batch, require_provider
from abnn_serve.runtime.open_vino import OpenVinoEngine
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision

log = logging.getLogger("abnn_serve")

TENSORRT = "TensorrtExecutionProvider"
_TENSORRT_REMEDY = "install TensorRT 10 so that the loader finds libnvinfer.so.10, or set ABNN_DEVICE=cuda"
_gpu_failures: list[str] = []
_ARITHMETIC = ("Conv", "Gemm", "MatMul", "InstanceNormalization")


def open_engine(
    model: bytes,
    device: Device,
    threads: int,
    precision: Precision = "fp32",
    gpu: int = 0,
    batches: Sequence[int] | None = None,
) -> Engine:
    """Load a serialised graph on a device.

    Args:
        model: a graph with one uint8 input whose only dynamic dimension is the batch.
        device: `auto` uses CUDA if it is available, else the CPU with one warning.
        threads: threads per run on the CPU.
        precision: precision of the graph; `bf16` is OpenVINO's arithmetic on the fp32 graph.
        gpu: number of the GPU, from 0.
        batches: sizes of the batches that CUDA prepares; None prepares all of `bucket_sizes`.

    Raises:
        DeviceError: the device is unavailable, its libraries are missing, or it would run arithmetic on the CPU.
    """
    _warn_if_two_builds()
    if device == "openvino":
        return OpenVinoEngine(model, threads, bf16=precision == "bf16")
    if precision == "bf16":
        raise DeviceError(f"ABNN_PRECISION is 'bf16' but ABNN_DEVICE is {device!r}; set ABNN_DEVICE=openvino")
    if device == "cpu":
        return OnnxEngine(model, threads)
    reason, remedy = cuda_problem(TENSORRT if device == "tensorrt" else CUDA, gpu) or ("", "")
    if not reason and precision == "int8" and device != "tensorrt":
        reason, remedy = "int8 graphs run on CPUs only", "set ABNN_PRECISION=fp16 for this GPU, or ABNN_DEVICE=cpu"
    if reason and device != "auto":
        raise DeviceError(f"ABNN_DEVICE is {device!r} but {reason}; {remedy}")
    if not reason:
        try:
            return _open_on_gpu(model, device, threads, gpu, batches)
        except DeviceError as error:
            if device != "auto":
                OnnxEngine(model, threads)  # raises its own error if no device can load the graph
                raise
            _gpu_failures.append(str(error))
            reason = _gpu_failures[0]  # the first, as its wording can change and one warning is enough
    engine = OnnxEngine(model, threads)
    _warn_once(f"running on the CPU: {reason}")
    return engine


def _open_on_gpu(model: bytes, device: Device, threads: int, gpu: int, batches: Sequence[int] | None) -> Engine:
    preload_libraries()
    with redirect_stdout(sys.stderr):  # ONNX Runtime prints to stdout, where predictions go
        engine: Engine = (
            CudaEngine(model, gpu, batches) if device != "tensorrt" else _open_tensorrt(model, threads, gpu)
        )
    problem = misplaced(engine.placement, TENSORRT if device == "tensorrt" else CUDA)
    if problem and device != "auto":
        raise DeviceError(f"ABNN_DEVICE is {device!r} but {problem}; set ABNN_DEVICE=cpu for this graph")
    if problem:
        log.warning("%s", problem)
    return engine


def misplaced(placement: Mapping[str, Mapping[str, int]], wanted: str) -> str | None:
    """The problem with a placement: arithmetic on the CPU, or none on the wanted provider; None if it is right."""
    arithmetic = {
        name: [f"{count} {kind}" for kind, count in nodes.items() if kind in _ARITHMETIC]
        for name, nodes in placement.items()
    }
    if on_cpu := arithmetic.get(CPU):
        return f"ONNX Runtime would run {', '.join(on_cpu)} on the CPU"
    if any(arithmetic.values()) and not arithmetic.get(wanted):
        others = " and ".join(name for name, nodes in arithmetic.items() if nodes)
        return f"ONNX Runtime would run all arithmetic on {others}, none on {wanted}"
    return None


def _open_tensorrt(model: bytes, threads: int, gpu: int) -> OnnxEngine:
    try:
        engine = OnnxEngine(model, threads, _tensorrt(model, gpu))
    except Exception as error:  # ORT's exceptions have no common base class
        raise DeviceError(f"TensorRT cannot run this graph: {one_line(error)}; {_TENSORRT_REMEDY}") from error
    require_provider(engine.session, TENSORRT, _TENSORRT_REMEDY)
    return engine


def _tensorrt(model: bytes, gpu: int) -> list[Any]:
    """Providers with TensorRT first, with one profile for all batch sizes and a cache: building takes a minute."""
    port = OnnxEngine(model, 1).inputs[0]
    largest = max_batch(port.frames)
    dimensions = "x".join(str(dimension) for dimension in port.shape[1:])
    cache = _cache_folder()
    settings = {
        "device_id": str(gpu),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": f"{port.name}:1x{dimensions}",
        "trt_profile_opt_shapes": f"{port.name}:{min(8, largest)}x{dimensions}",
        "trt_profile_max_shapes": f"{port.name}:{largest}x{dimensions}",
    }
    return [(TENSORRT, settings), (CUDA, {"device_id": str(gpu), "use_tf32": "0"}), CPU]


def _cache_folder() -> Path:
    """The user's cache, or a temporary folder where it cannot be written, as in a container with read-only files."""
    try:
        folder = Path.home() / ".cache" / "abnn_serve" / "tensorrt"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        pass
    return Path(tempfile.mkdtemp(prefix="abnn-tensorrt-"))


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def installed_builds() -> dict[str, str]:
    """Versions of the installed builds of ONNX Runtime, which overwrite each other's files."""
    found = [d for name in ("onnxruntime", "onnxruntime-gpu") for d in importlib.metadata.distributions(name=name)]
    return {d.metadata["Name"].lower(): d.version for d in found}


@functools.cache
def _warn_if_two_builds() -> None:
    if len(installed_builds()) > 1:
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; uninstall both, then "
            "reinstall abnn_serve",
            RuntimeWarning,
            stacklevel=2,
        )
