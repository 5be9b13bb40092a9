"""Checks of the machine: CPU, memory, GPU, and installed packages against the versions that this package needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess

import onnxruntime as ort
from packaging.requirements import Requirement

from abnn_serve.doctor.libraries import unloadable_libraries
from abnn_serve.doctor.report import Check, Status
from abnn_serve.errors import one_line
from abnn_serve.hardware import cuda_driver_version, describe_cpu, has_cuda_device, instruction_sets, usable_memory
from abnn_serve.runtime.cuda import CUDA, GRAPHS_SINCE, can_replay
from abnn_serve.runtime.cuda_library import cuda_problem, preload_libraries
from abnn_serve.runtime.providers import installed_builds
from abnn_serve.version import __version__

_QUERY = "name,compute_cap,memory.total,memory.used,driver_version,power.limit,clocks.max.sm,mig.mode.current"
_EXTRAS = ("", "lab", "openvino", "cuda", "score", "ray")


def check_environment(*, on_gpu: bool) -> list[Check]:
    """Check hardware and packages.

    Args:
        on_gpu: a GPU was asked for, so what keeps ONNX Runtime from using one is a failure.
    """
    return [
        *_machine(),
        *(_cuda_checks(required=on_gpu) if on_gpu or has_cuda_device() else []),
        _builds(installed_builds()),
        _cuda_majors([str(d.metadata["Name"]) for d in importlib.metadata.distributions()]),
        *check_versions(_requirements()),
        _api_keys(os.environ.get("ABNN_API_KEY_FILE")),
    ]


def _machine() -> list[Check]:
    memory = usable_memory()
    return [
        Check(name="abnn_serve", detail=f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        Check(name="CPU", detail=describe_cpu()),
        Check(name="instruction sets", detail=" ".join(instruction_sets()) or "unknown"),
        Check(name="memory", detail="unknown" if memory is None else f"{memory / 2**30:.1f} GiB"),
    ]


def _cuda_checks(*, required: bool) -> list[Check]:
    return [
        *_gpus(),
        _cuda(required=required),
        _loader(required=required),
        _graphs(required=required),
        _rewrites(installed=importlib.util.find_spec("onnx_ir") is not None),
    ]


def _gpus() -> list[Check]:
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"nvidia-smi failed: {one_line(error)}"
        return [Check(name="GPU", detail=reason, status="warning", remedy="install it with the driver")]
    names = [name.partition(".")[0].replace("_", " ") for name in _QUERY.split(",")]
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    return [
        Check(name=f"GPU {i}", detail=", ".join(f"{n} {cell}" for n, cell in zip(names, row, strict=False)))
        for i, row in enumerate(rows)
    ]


def _cuda(*, required: bool) -> Check:
    driver = cuda_driver_version()
    detail = f"ONNX Runtime {ort.__version__} for CUDA {getattr(ort, 'cuda_version', '') or 'none'}"
    if driver:
        detail += f", driver for CUDA {driver[0]}.{driver[1]}"
    problem = cuda_problem(CUDA)
    if problem is None:
        return Check(name="CUDA", detail=detail)
    status: Status = "failed" if required else "warning"
    return Check(name="CUDA", detail=f"{detail}: {problem[0]}", status=status, remedy=problem[1])


def _loader(*, required: bool) -> Check:
    preload_libraries()
    reasons = unloadable_libraries()
    if not reasons:
        return Check(name="CUDA libraries", detail="found")
    return Check(
        name="CUDA libraries",
        detail="; ".join(reasons.values()),
        status="failed" if required else "warning",
        remedy="pip install 'abnn_serve[cuda]', or add the folder that holds "
        f"{' and '.join(reasons)} to LD_LIBRARY_PATH",
    )


def _rewrites(*, installed: bool) -> Check:
    if installed:
        return Check(name="graphs for CUDA", detail="rewritten for fewer kernels")
    remedy = "pip install 'abnn_serve[cuda]'"
    return Check(name="graphs for CUDA", detail="as exported: onnx-ir is missing", status="warning", remedy=remedy)


def _graphs(*, required: bool) -> Check:
    if can_replay():
        return Check(name="CUDA graphs", detail="correct in this ONNX Runtime")
    floor = ".".join(map(str, GRAPHS_SINCE))
    return Check(
        name="CUDA graphs",
        detail=f"off, because ONNX Runtime {ort.__version__} replays wrong data",
        status="failed" if required else "warning",
        remedy=f"pip install 'onnxruntime-gpu>={floor}'",
    )


def _builds(builds: dict[str, str]) -> Check:
    detail = ", ".join(f"{name} {version}" for name, version in builds.items()) or "installed without metadata"
    if len(builds) < 2:
        return Check(name="ONNX Runtime", detail=detail)
    remedy = "uninstall both, then reinstall abnn_serve"
    return Check(name="ONNX Runtime", detail=f"{detail} overwrite each other", status="failed", remedy=remedy)


def _cuda_majors(packages: list[str]) -> Check:
    """Packages of two CUDA versions install cuDNN into the same folder."""
    majors = sorted({match[1] for name in packages if (match := re.fullmatch(r"nvidia-cudnn-cu(\d+)", name))})
    if len(majors) < 2:
        detail = f"for CUDA {majors[0]}" if majors else "no Python package"
        return Check(name="cuDNN", detail=detail)
    wheels = " and ".join(f"nvidia-cudnn-cu{major}" for major in majors)
    remedy = f"uninstall both, then reinstall nvidia-cudnn-cu{majors[-1]}"
    return Check(name="cuDNN", detail=f"{wheels} overwrite each other", status="failed", remedy=remedy)


def _api_keys(file: str | None) -> Check:
    if file:
        return Check(name="API keys", detail=f"required, {file}")
    return Check(
        name="API keys",
        detail="none: a service that listens on all interfaces would answer everybody who reaches it",
        status="warning",
        remedy="set ABNN_API_KEY_FILE to a file written by `abnn key`, or listen on 127.0.0.1, as `abnn serve` does",
    )


def check_versions(requirements: list[Requirement]) -> list[Check]:
    """One check of all packages that are installed in a version that fits, and one for each other.

    Args:
        requirements: packages with their allowed versions; one of an extra may be missing.
    """
    fitting, broken = [], []
    for requirement in requirements:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if not requirement.marker or "extra" not in str(requirement.marker):
                remedy = f"pip install '{requirement.name}{requirement.specifier}'"
                broken.append(Check(name=requirement.name, detail="missing", status="failed", remedy=remedy))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fitting.append(f"{requirement.name} {version}")
        else:
            detail = f"{version}, expected {requirement.specifier}"
            remedy = f"pip install '{requirement.name}{requirement.specifier}'"
            broken.append(Check(name=requirement.name, detail=detail, status="failed", remedy=remedy))
    return [Check(name="packages", detail=", ".join(dict.fromkeys(fitting)) or "unknown"), *broken]


def _requirements() -> list[Requirement]:
    """Requirements of this package and its extras on this platform; none in a bento, which has no metadata of it."""
    try:
        lines = importlib.metadata.requires("abnn_serve") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = [Requirement(line) for line in lines]
    return [r for r in requirements if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in _EXTRAS)]
