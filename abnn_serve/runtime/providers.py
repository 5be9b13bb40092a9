"""Which engine runs a graph: from the device that was asked for to what this machine has."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnxruntime as ort

from abnn_serve.errors import DeviceError, one_line
from abnn_serve.runtime.cuda import CUDA, CudaEngine
from abnn_serve.runtime.cuda_library import what_cuda_lacks
from abnn_serve.runtime.engine import CPU, Engine, OnnxEngine, max_batch, require_provider
from abnn_serve.runtime.open_vino import OpenVinoEngine
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision

log = logging.getLogger("abnn_serve")

TENSORRT = "TensorrtExecutionProvider"
_TENSORRT_REMEDY = "install TensorRT 10 where the loader finds libnvinfer.so.10, or set ABNN_DEVICE=cuda"
_gpu_failures: list[str] = []
_ARITHMETIC = ("Conv", "Gemm", "MatMul", "InstanceNormalization")


def open_engine(model: bytes, device: Device, threads: int, precision: Precision = "fp32") -> Engine:
    """A serialised graph on a device.

    Args:
        model: with one uint8 input of known sizes behind a dynamic batch.
        device: `auto` is CUDA where there is one, else the CPU with one warning.
        threads: of one run on the CPU.
        precision: of the graph; `bf16` is arithmetic that OpenVINO does on the fp32 file.

    Raises:
        DeviceError: the device is not there, lacks libraries, or would leave arithmetic to the CPU.
    """
    _warn_of_two_builds()
    if device == "openvino":
        return OpenVinoEngine(model, threads, bf16=precision == "bf16")
    if precision == "bf16":
        raise DeviceError(f"ABNN_PRECISION is 'bf16' and ABNN_DEVICE is {device!r}; set ABNN_DEVICE=openvino for it")
    if device == "cpu":
        return OnnxEngine(model, threads)
    lack = what_cuda_lacks(TENSORRT if device == "tensorrt" else CUDA)
    if lack is None and precision == "int8" and device != "tensorrt":
        lack = "int8 graphs run on CPUs", "set ABNN_PRECISION=fp16 for this GPU, or ABNN_DEVICE=cpu"
    if lack and device != "auto":
        raise DeviceError(f"ABNN_DEVICE is {device!r} but {lack[0]}; {lack[1]}")
    if lack is None:
        try:
            return _open_on_gpu(model, device, threads)
        except DeviceError as error:
            if device != "auto":
                OnnxEngine(model, threads)  # raises its own error for a graph that no device opens
                raise
            _gpu_failures.append(str(error))
            problem = _gpu_failures[0]  # its wording may change with each attempt, and one warning is enough
    else:
        problem = lack[0]
    engine = OnnxEngine(model, threads)
    _say_once(f"running on the CPU: {problem}")
    return engine


def _open_on_gpu(model: bytes, device: Device, threads: int) -> Engine:
    with redirect_stdout(sys.stderr):  # ONNX Runtime prints what it lacks, where answers may be printed
        ort.preload_dlls()
        if device != "tensorrt":
            engine: Engine = CudaEngine(model)
        else:
            engine = _open_tensorrt(model, threads)
    problem = misplaced(engine.placement, TENSORRT if device == "tensorrt" else CUDA)
    if problem and device != "auto":
        raise DeviceError(f"ABNN_DEVICE is {device!r} but {problem}; set ABNN_DEVICE=cpu for this graph")
    if problem:
        log.warning("%s", problem)
    return engine


def misplaced(placement: Mapping[str, Mapping[str, int]], wanted: str) -> str | None:
    """What is wrong with a placement: arithmetic on the CPU, or none of it on the provider that was wanted."""
    found = {
        name: [f"{count} {kind}" for kind, count in nodes.items() if kind in _ARITHMETIC]
        for name, nodes in placement.items()
    }
    if left := found.get(CPU):
        return f"ONNX Runtime would run {', '.join(left)} on the CPU"
    if any(found.values()) and not found.get(wanted):
        others = " and ".join(name for name, nodes in found.items() if nodes)
        return f"ONNX Runtime would run all arithmetic on {others}, none on {wanted}"
    return None


def _open_tensorrt(model: bytes, threads: int) -> OnnxEngine:
    try:
        engine = OnnxEngine(model, threads, _tensorrt(model))
    except Exception as error:  # ORT's exception classes share no base of their own
        raise DeviceError(f"TensorRT cannot run this graph: {one_line(error)}; {_TENSORRT_REMEDY}") from error
    require_provider(engine.session, TENSORRT, _TENSORRT_REMEDY)
    return engine


def _tensorrt(model: bytes) -> list[Any]:
    """TensorRT with one profile for every batch and an engine cache: building an engine takes a minute."""
    port = OnnxEngine(model, 1).inputs[0]
    largest = max_batch(port.frames)
    sizes = "x".join(str(dimension) for dimension in port.shape[1:])
    cache = Path.home() / ".cache" / "abnn_serve" / "tensorrt"
    cache.mkdir(parents=True, exist_ok=True)
    settings = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": f"{port.name}:1x{sizes}",
        "trt_profile_opt_shapes": f"{port.name}:{min(8, largest)}x{sizes}",
        "trt_profile_max_shapes": f"{port.name}:{largest}x{sizes}",
    }
    return [(TENSORRT, settings), (CUDA, {"use_tf32": "0"}), CPU]


@functools.cache
def _say_once(message: str) -> None:
    log.warning("%s", message)


@functools.cache
def _warn_of_two_builds() -> None:
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions(name="onnxruntime")}
    installed |= {d.metadata["Name"].lower() for d in importlib.metadata.distributions(name="onnxruntime-gpu")}
    if {"onnxruntime", "onnxruntime-gpu"} <= installed:
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install abnn_serve again",
            RuntimeWarning,
            stacklevel=2,
        )
