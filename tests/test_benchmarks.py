"""What the benchmarks would measure, as functions of their options."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cuda_stub.process import ROOT

_BARS = """
import json, latency
bars = latency.BARS if {device!r} == "cpu" else latency.CUDA_BARS
pairs = [(batch, size) for size in (224, 32) for batch in latency.batches_of({device!r}, size, quick=True)]
timed = [f"{{batch}}x{{size}}x{{size}}" for batch, size in pairs]
print(json.dumps([[bar.setting for bar in bars], [*timed, "default"]]))
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_quick_run_times_every_setting_that_a_bar_names(device):
    script = _BARS.format(device=device)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    named, timed = json.loads(done.stdout)
    assert set(named) <= set(timed)


def test_a_report_of_a_gpu_run_names_the_gpu(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from common.report import device_of

    assert device_of("cuda") == {"gpu": "NVIDIA H100 80GB HBM3, 580.65.06"}
    assert device_of("cpu") == {}
