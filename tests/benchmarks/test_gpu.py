"""What the benchmarks time and record on a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from abnn_serve.doctor.libraries import gpu_memory_used
from abnn_serve.hardware import resident_memory
from abnn_serve.lab.training.recipes import RECIPES
from benchmarks import reproduce, steps
from benchmarks.common.report import gpu_record
from benchmarks.common.timing import with_memory
from benchmarks.gpu import Part, parts, run_parts
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


def test_all_parts_of_the_examination_fit_in_ten_minutes_and_are_those_of_the_device():
    examined = parts("cuda", Path("out"))
    assert [part.name for part in examined] == ["doctor", "tests", "latency", "steps"]
    assert sum(part.seconds for part in examined) < 600
    for part in examined:
        asked = " ".join(part.arguments)
        assert "--device cuda" in asked or "-m gpu" in asked


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path, capsys):
    def part(name: str, code: str, seconds: float = 20) -> Part:
        return Part(name=name, arguments=("-c", code), report=f"{name}.txt", seconds=seconds)

    chosen = [
        part("wrong", "print('half'); raise SystemExit(3)"),
        part("slow", "import time; time.sleep(60)", 0.2),
        part("right", "print('whole')"),
    ]
    assert run_parts(chosen, tmp_path / "reports") == {"wrong", "slow"}
    assert [(tmp_path / "reports" / f"{name}.txt").read_text() for name in ("wrong", "right")] == ["half\n", "whole\n"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["wrong", "FAILED"], ["slow", "FAILED:"], ["right", "passed"]]


@pytest.mark.parametrize(
    "recipes", [["abnn-at"], pytest.param(list(RECIPES), marks=pytest.mark.slow)], ids=["one recipe", "all recipes"]
)
def test_steps_of_a_recipe_train_with_those_that_it_starts_from(recipes, monkeypatch, tmp_path):
    small = ["--network", "resnet8s-w4", "--batch-size", "4", "--steps", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["steps", *small, "--recipes", *recipes, "--out", str(tmp_path / "steps")])
    assert steps.main() == []
    record = json.loads((tmp_path / "steps.json").read_text())
    assert set(record["images_per_second"]) == {"standard", "abnn", *recipes}
    assert min(record["images_per_second"].values()) > 0
    assert record["settings"]["steps"] == 2


@pytest.mark.parametrize(
    ("options", "compiled"), [([], False), (["--preset", "gpu"], True), (["--preset", "gpu", "--no-compile"], False)]
)
def test_the_gpu_preset_compiles_unless_told_otherwise(options, compiled, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reproduce", "image", "--data", "x", *options])
    assert reproduce._options().compile == compiled
