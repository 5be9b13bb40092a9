"""Checks for the CUDA libraries that ONNX Runtime needs, and direct calls to the CUDA runtime."""

from __future__ import annotations

import ctypes
import sys
from contextlib import redirect_stdout, suppress

import onnxruntime as ort

from abnn_serve.hardware import cuda_devices, cuda_driver_version


def preload_libraries() -> None:
    """Load the CUDA and cuDNN libraries that are installed as Python packages."""
    with redirect_stdout(sys.stderr):  # ONNX Runtime prints missing libraries to stdout, where predictions go
        ort.preload_dlls()


def cuda_runtime() -> ctypes.CDLL:
    """Load libcudart of ONNX Runtime's CUDA version; OSError or AttributeError without it."""
    return ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")


def clear_error(runtime: ctypes.CDLL) -> None:
    """Reset the thread's last error, which ONNX Runtime would report as a failure of its next kernel."""
    runtime.cudaGetLastError()


def device_is_lost() -> bool:
    """Whether CUDA still fails after a reset of its last error: errors such as 700 last until the process ends."""
    try:
        runtime = cuda_runtime()
        clear_error(runtime)
        return bool(runtime.cudaDeviceSynchronize() != 0)
    except (AttributeError, OSError):
        return False


def use_gpu(number: int) -> None:
    """Make `number` the GPU of this thread's calls of the CUDA runtime, such as page-locking."""
    with suppress(AttributeError, OSError):  # ONNX Runtime reports missing libraries
        cuda_runtime().cudaSetDevice(number)


def cuda_problem(provider: str, gpu: int = 0) -> tuple[str, str] | None:
    """Why this machine cannot run an execution provider on a GPU, and the remedy; None if no problem is known."""
    count = cuda_devices()
    if count and gpu >= count:
        return f"ABNN_GPU is {gpu} and this machine has {count} GPUs, counted from 0", f"set it to {count - 1} or less"
    if not count:
        return "this machine has no CUDA device", "set ABNN_DEVICE=cpu, or install a driver and 'abnn_serve[cuda]'"
    if provider not in ort.get_available_providers():
        problem = f"this ONNX Runtime was built without {provider}"
        return problem, "set ABNN_DEVICE=cpu, or install 'abnn_serve[cuda]'"
    driver, needed = cuda_driver_version(), ort.cuda_version
    if driver and driver[0] < int(needed.partition(".")[0]):
        problem = f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]} but this ONNX Runtime needs {needed}"
        return problem, "update the driver, or set ABNN_DEVICE=cpu"
    return None
