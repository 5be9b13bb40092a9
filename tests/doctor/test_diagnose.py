"""The doctor on shipped bundles: on this machine, and over the stub of the CUDA libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from abnn_serve.bundle.store import load_bundle
from abnn_serve.doctor.case import examine, examine_in_process, judge
from abnn_serve.doctor.diagnose import PRECISIONS, cases_of, choose, devices
from abnn_serve.doctor.report import Case, CaseReport, Latency, Report
from abnn_serve.runtime.open_vino import has_openvino
from abnn_serve.runtime.settings import Device
from tests.cuda_stub.process import ROOT, Stub

BUNDLE = ROOT / "models" / "cifar10-abnn"
CASE = Case(bundle=str(BUNDLE), precision="int8", device="cpu")


def _doctor(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from abnn_serve.cli.main import main; main()", "doctor", *map(str, arguments)]
    env = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_a_bundle_is_examined_in_each_precision_and_the_report_is_printed():
    done = _doctor(BUNDLE, "--device", "cpu", "--seconds", 0.2)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("cifar10-abnn ")]
    assert [row[2] for row in rows] == ["fp32", "int8"] * 2
    assert all(row[-1] == "ok" for row in rows[:2])
    assert "cifar10-abnn: ABNN_DEVICE=cpu ABNN_PRECISION=" in done.stdout
    trained = [line.split() for line in done.stdout.splitlines() if line.split()[1:3] == ["cpu", "50"]]
    assert [(row[0], row[-1]) for row in trained] == [("standard", "ok"), ("abnn", "ok")]
    assert done.stdout.splitlines()[-1].startswith("passed in ")


def test_a_device_that_is_missing_is_a_failure_with_its_remedy_in_json_too():
    done = _doctor(BUNDLE, "--device", "tensorrt", "--json", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    value = json.loads(done.stdout)
    assert not value["passed"]
    assert value["choices"] == []
    assert all(case["error"] for case in value["cases"])
    for line in done.stderr.splitlines():
        assert line.startswith("abnn: ")
        assert "; " in line


def test_an_unknown_device_is_one_line():
    done = _doctor("--device", "tpu")
    assert (done.returncode, done.stderr) == (
        1,
        "abnn: --device is 'tpu', expected one of auto, cpu, openvino, cuda, tensorrt\n",
    )


def _doctor_over(stub, folder, **environment: str) -> subprocess.CompletedProcess[str]:
    # the real libraries, which need a driver, stay unloaded
    (folder / "sitecustomize.py").write_text(
        "import onnxruntime\nonnxruntime.preload_dlls = lambda *_args, **_kwargs: None\n"
    )
    paths = {"LD_LIBRARY_PATH": str(stub.libraries), "PYTHONPATH": f"{folder}:{ROOT}"}
    return _doctor(
        ROOT / "models" / "motions-abnn", "--device", "cuda", "--no-training", "--json", **paths, **environment
    )


def test_cuda_over_the_stub_opens_captures_and_fails_on_the_logits_that_nothing_computes(stub, tmp_path):
    done = _doctor_over(stub, tmp_path)
    assert done.returncode == 1
    (case,) = json.loads(done.stdout)["cases"]
    assert "fp32 logits on CUDAExecutionProvider differ from the golden logits by" in case["error"]
    assert "libcudnn 9.24.0" in case["libraries"]
    assert case["libraries"]["libcudnn 9.24.0"].startswith(str(stub.libraries))


@pytest.mark.skipif(not has_openvino(), reason="needs OpenVINO")
def test_another_engine_than_the_cpu_is_compared_with_it():
    report = examine(replace(CASE, precision="int8", device="openvino"), 1, 0)
    assert report.error == ""
    assert 0 < report.cpu_error < 0.2


def test_a_library_that_the_loader_cannot_find_is_named_with_its_remedy(stub, tmp_path):
    folder = tmp_path / "libraries"
    shutil.copytree(stub.libraries, folder)
    (folder / "libcublas.so.13").unlink()
    done = _doctor_over(Stub(folder), tmp_path)
    assert done.returncode == 1
    assert (
        "abnn: CUDA libraries: libcublas.so.13: cannot open shared object file: No such file or directory; "
        "pip install 'abnn_serve[cuda]', or add the folder that holds libcublas.so.13 to LD_LIBRARY_PATH\n"
    ) in done.stderr


def test_the_gpu_of_the_settings_is_examined(stub, tmp_path):
    done = _doctor_over(stub, tmp_path, STUB_DEVICES="2", ABNN_GPU="2")
    assert done.returncode == 1
    assert "ABNN_GPU is 2 and this machine has 2 GPUs, counted from 0; set it to 1 or less" in done.stderr


def test_a_process_that_crashes_or_says_nothing_is_a_failed_case(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    assert examine_in_process(CASE, 1, 0.1).error.startswith("the process ended with SIGABRT: ")


def test_figures_out_of_bounds_are_failures():
    report = CaseReport(case=CASE, tolerance=1e-3, golden_error=1e-4, neighbour_error=1e-4, thread_error=1e-4)
    assert judge(report).error == ""
    assert "differ from the golden logits by 0.01" in judge(replace(report, golden_error=0.01)).error
    assert "change with its batch by 0.01" in judge(replace(report, neighbour_error=0.01)).error
    assert "in a second thread" in judge(replace(report, thread_error=0.01)).error
    assert "captured again" in judge(replace(report, captures=1)).error
    assert "random images differ from the CPU's by 0.01" in judge(replace(report, cpu_error=0.01)).error
    failed = Report(environment=(), cases=(judge(replace(report, captures=1)),), training=(), choices=(), seconds=1)
    assert failed.failures[0].startswith(f"{BUNDLE} int8 on cpu: 1 batch sizes were captured again")


def test_a_bundle_that_lacks_the_precision_is_an_error_in_the_report():
    assert "has no fp16 graph" in examine(replace(CASE, precision="fp16"), 1, 0).error


def test_the_fastest_case_without_an_error_is_chosen_and_its_accuracy_named():
    bundle = load_bundle(BUNDLE)

    def report(precision: str, device: str, seconds: float, error: str = "") -> CaseReport:
        case = Case(bundle=str(BUNDLE), precision=precision, device=device)
        return CaseReport(case=case, latencies=(Latency(batch=1, p50=seconds, p95=seconds),), error=error)

    reports = [report("fp32", "cpu", 0.004), report("int8", "openvino", 0.002), report("int8", "cpu", 0.001, "wrong")]
    choice = choose(bundle, reports)
    assert choice
    assert (choice.device, choice.precision) == ("openvino", "int8")
    assert choice.reason == (
        "2.00 ms for one sample, the fastest; cpu in fp32 takes 4.00 ms; clean accuracy 86.6%, in fp32 86.5%"
    )
    assert choose(bundle, reports[-1:]) is None


@pytest.mark.parametrize("device", PRECISIONS)
def test_every_device_has_precisions_and_can_be_asked_for(device: Device):
    assert devices(device) == [device]
    assert {case.precision for case in cases_of(load_bundle(BUNDLE), [device])} <= set(PRECISIONS[device])
