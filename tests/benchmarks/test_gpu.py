"""What the benchmarks time and record on a GPU."""

from __future__ import annotations

import pytest

from abnn_serve.doctor.libraries import gpu_memory_used
from abnn_serve.hardware import resident_memory
from benchmarks.common.report import gpu_record
from benchmarks.common.timing import with_memory
from benchmarks.latency import CUDA_RATIOS, RATIOS, batches_of, memory_of


@pytest.mark.parametrize(("device", "ratios"), [("cpu", RATIOS), ("cuda", CUDA_RATIOS)])
def test_a_quick_run_times_every_setting_that_a_bar_names(device, ratios):
    timed = {f"{batch}x{size}x{size}" for size in (224, 32) for batch in batches_of(device, size, quick=True)}
    assert {ratio.setting for ratio in ratios} <= {*timed, "default"}


def test_a_record_of_a_gpu_run_names_the_gpu(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpu_record("cuda") == {"gpu": "NVIDIA H100 80GB HBM3, 580.65.06"}
    assert gpu_record("cpu") == {}


def test_memory_of_a_gpu_run_is_the_gpu_s():
    assert (memory_of("cpu"), memory_of("cuda")) == (resident_memory, gpu_memory_used)
    held: list[bytearray] = []
    _, added = with_memory(lambda: lambda: held.append(bytearray(b"x" * (64 << 20))), memory_of("cpu"))
    assert 60 < added < 200
