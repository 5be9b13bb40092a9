"""The doctor's training: real steps where torch is installed, and what it says of failures."""

from __future__ import annotations

import pytest

from abnn_serve.doctor import training
from abnn_serve.doctor.report import Report, TrainingReport
from tests.cuda_stub.process import ROOT


def test_a_device_that_torch_does_not_find_is_a_failure_of_the_report():
    (report,) = training.train_in_process("tpu")
    assert report.error == "device is 'tpu', expected auto, cpu or cuda"
    failed = Report(environment=(), cases=(), training=(report,), choices=(), seconds=1)
    assert failed.failures == [f"training standard on tpu: {report.error}"]


def test_a_process_that_crashes_is_a_failure(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    (report,) = training.train_in_process("cpu")
    assert report.error.startswith("the process ended with status -6: ")


def test_without_torch_nothing_trains(monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    assert training.train_in_process("cpu") == ()


@pytest.mark.parametrize(("error", "failed"), [(None, False), (1e-3, False), (2e-3, True), (float("nan"), True)])
def test_logits_far_from_the_cpu_s_are_a_failure(error, failed):
    report = training.judge(TrainingReport(recipe="standard", device="cuda", cpu_error=error))
    assert bool(report.error) == failed
