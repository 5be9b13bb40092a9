"""Properties of this machine: usable cores and memory, CPU, CUDA device."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and cgroup CPU quota, both of which ONNX Runtime ignores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return limit_us / int((root / "cpu" / "cpu.cfs_period_us").read_text()) if limit_us > 0 else None
    except (OSError, ValueError):
        return None


def has_cuda_device() -> bool:
    """Whether the CUDA driver is installed and reports at least one device."""
    return cuda_devices() > 0


def cuda_devices() -> int:
    """Number of GPUs that this process may use: 0 without a driver; CUDA_VISIBLE_DEVICES limits them."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        count = ctypes.c_int(0)
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except OSError:
        return 0
    return count.value if found else 0


def cuda_driver_version() -> tuple[int, int] | None:
    """The newest CUDA version that the driver supports, as (13, 0); None without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        version = ctypes.c_int(0)
        failed = driver.cuDriverGetVersion(ctypes.byref(version)) != 0
    except (AttributeError, OSError):
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def describe_cpu() -> str:
    """CPU name and number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = usable_cores()
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


_INSTRUCTION_SETS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)


def instruction_sets() -> list[str]:
    """The CPU's vector instruction sets that inference engines use, by their names in Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in _INSTRUCTION_SETS if name in flags]


def usable_memory(root: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of memory that this process may use: the cgroup's limit or else the machine's; None if unknown."""
    limits = []
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # no such cgroup version, or "max"
            continue
    try:
        lines = meminfo.read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    except OSError:
        pass
    return min(limits, default=None)


def resident_memory() -> int | None:
    """Bytes of physical memory that this process holds; None if unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)
