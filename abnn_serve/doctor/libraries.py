"""The CUDA libraries that this process has loaded or cannot load, and the memory of its GPU."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import onnxruntime as ort

from abnn_serve.runtime.cuda_library import cuda_runtime

_MAPS = Path("/proc/self/maps")
_NAMES = ("libcudart", "libcublas", "libcublasLt", "libcudnn", "libcuda", "libnvinfer")


def loaded_libraries(maps: str | None = None) -> dict[str, str]:
    """CUDA libraries of this process by name, with cuDNN's version; empty where /proc is missing.

    Args:
        maps: content of /proc/self/maps; None reads it.
    """
    if maps is None:
        maps = _MAPS.read_text() if _MAPS.exists() else ""
    loaded = {}
    for path in sorted(set(re.findall(r"(/\S+\.so[.\d]*)$", maps, re.MULTILINE))):
        name = Path(path).name.partition(".so")[0]
        if name in _NAMES:
            loaded[f"{name} {_version(name, path)}".strip()] = path
    return loaded


def unloadable_libraries(cuda_version: str = ort.cuda_version) -> dict[str, str]:
    """The libraries that ONNX Runtime needs for this CUDA version and the loader cannot open, with its reason."""
    major, reasons = cuda_version.partition(".")[0], {}
    for library in (*(f"{name}.so.{major}" for name in ("libcudart", "libcublas", "libcublasLt")), "libcudnn.so.9"):
        try:
            ctypes.CDLL(library)
        except OSError as error:
            reasons[library] = str(error)
    return reasons


def _version(name: str, path: str) -> str:
    if name != "libcudnn":
        return Path(path).name.partition(".so.")[2]
    try:
        library = ctypes.CDLL(path)
        library.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(library.cudnnGetVersion())
    except (AttributeError, OSError):
        return ""
    return f"{number // 10_000}.{number % 10_000 // 100}.{number % 100}"


def gpu_memory_used() -> int | None:
    """Bytes in use on the current GPU, by all processes; None without the CUDA runtime."""
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    try:
        failed = cuda_runtime().cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    except (AttributeError, OSError):
        return None
    return None if failed else total.value - free.value
