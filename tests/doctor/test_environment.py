"""Checks of packages and hardware."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from abnn_serve.doctor import environment
from abnn_serve.doctor.environment import check_environment, check_versions
from abnn_serve.doctor.libraries import loaded_libraries
from abnn_serve.hardware import has_cuda_device, instruction_sets, resident_memory, usable_memory


def test_this_machine_s_packages_fit():
    checks = {check.name: check for check in check_environment(on_gpu=False)}
    assert {check.status for check in checks.values()} <= {"ok", "warning"}
    assert "onnxruntime" in checks["packages"].detail
    assert checks["memory"].detail.endswith(" GiB")


def test_a_machine_without_api_keys_gets_a_warning_and_a_remedy(monkeypatch):
    monkeypatch.delenv("ABNN_API_KEY_FILE", raising=False)
    (keys,) = (check for check in check_environment(on_gpu=False) if check.name == "API keys")
    assert (keys.status, "all interfaces" in keys.detail) == ("warning", True)
    assert "ABNN_API_KEY_FILE" in keys.remedy
    monkeypatch.setenv("ABNN_API_KEY_FILE", "/run/secrets/keys")
    (keys,) = (check for check in check_environment(on_gpu=False) if check.name == "API keys")
    assert (keys.status, keys.detail) == ("ok", "required, /run/secrets/keys")


@pytest.mark.parametrize(
    ("requirement", "status", "detail"),
    [
        ("numpy>=1.26", None, None),
        ("numpy>=99", "failed", ", expected >=99"),
        ("no-such-package>=1; extra == 'lab'", None, None),
        ("no-such-package>=1", "failed", "missing"),
    ],
)
def test_a_package_outside_its_bounds_fails_with_the_command_that_installs_one(requirement, status, detail):
    first, *broken = check_versions([Requirement(requirement)])
    assert first.name == "packages"
    assert [check.status for check in broken] == ([status] if status else [])
    for check in broken:
        assert check.detail.endswith(detail)
        assert check.remedy == f"pip install '{requirement}'"


def test_the_floors_are_read_from_the_installed_package_and_its_extras():
    names = {requirement.name for requirement in environment._requirements()}
    assert {"numpy", "bentoml", "torch", "openvino"} <= names
    assert "pytest" not in names


def test_two_builds_of_onnx_runtime_and_two_cudnns_fail():
    builds = environment._builds({"onnxruntime": "1.30", "onnxruntime-gpu": "1.31"})
    assert (builds.status, builds.detail) == ("failed", "onnxruntime 1.30, onnxruntime-gpu 1.31 overwrite each other")
    assert environment._builds({"onnxruntime-gpu": "1.31"}).status == "ok"
    both = environment._cuda_majors(["nvidia-cudnn-cu12", "numpy", "nvidia-cudnn-cu13"])
    assert both.status == "failed"
    assert both.remedy == "uninstall both, then reinstall nvidia-cudnn-cu13"
    assert environment._cuda_majors(["nvidia-cudnn-cu13"]).detail == "for CUDA 13"


def test_an_onnx_runtime_that_replays_wrong_data_is_named(monkeypatch):
    monkeypatch.setattr(environment.ort, "__version__", "1.29.0")
    check = environment._graphs(required=True)
    assert (check.status, check.remedy) == ("failed", "pip install 'onnxruntime-gpu>=1.30'")


@pytest.mark.skipif(has_cuda_device(), reason="this machine has a CUDA device")
def test_a_gpu_that_was_asked_for_and_is_not_there_fails():
    checks = {check.name: check for check in check_environment(on_gpu=True)}
    assert checks["CUDA"].status == "failed"
    assert checks["CUDA"].detail.endswith("this machine has no CUDA device")


def test_a_gpu_is_described_by_nvidia_smi(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 143771 MiB, 5 MiB, 580.65, 700.00 W, 1980 MHz, Disabled'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (check,) = environment._gpus()
    assert check.detail.startswith("name NVIDIA H200, compute cap 9.0, memory 143771 MiB")


def test_libraries_are_read_from_the_memory_map():
    maps = (
        "7f00-7f01 r-xp 00000000 08:01 1   /opt/cuda/lib/libcudart.so.13\n"
        "7f02-7f03 r-xp 00000000 08:01 2   /opt/cuda/lib/libcudart.so.13\n"
        "7f04-7f05 r-xp 00000000 08:01 3   /usr/lib/libm.so.6\n"
    )
    assert loaded_libraries(maps) == {"libcudart 13": "/opt/cuda/lib/libcudart.so.13"}
    assert loaded_libraries("") == {}


def test_memory_is_the_cgroup_s_limit_or_the_machine_s(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8 kB\nMemFree:        1 kB\n")
    assert usable_memory(tmp_path, meminfo) == 8192
    (tmp_path / "memory.max").write_text("4096\n")
    assert usable_memory(tmp_path, meminfo) == 4096
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory(tmp_path, meminfo) == 8192
    assert usable_memory(tmp_path, tmp_path / "none") is None


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_this_process_has_memory_and_its_cpu_instruction_sets():
    block = ctypes.create_string_buffer(1 << 20)
    assert len(block) < (resident_memory() or 0)
    assert instruction_sets()
