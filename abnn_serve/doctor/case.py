"""Examines one case, in a process of its own: a crash is then one failed line, and memory is that of the case.

`python -m abnn_serve.doctor.case BUNDLE PRECISION DEVICE THREADS SECONDS` prints the report as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from abnn_serve.bundle.store import load_bundle
from abnn_serve.codec import from_json, to_json
from abnn_serve.doctor.libraries import gpu_memory_used, loaded_libraries
from abnn_serve.doctor.replay import count_captures, cpu_error, neighbour_error, replay_in_thread, replay_shuffled
from abnn_serve.doctor.report import Case, CaseReport
from abnn_serve.errors import AbnnError, DeviceError, one_line
from abnn_serve.hardware import resident_memory
from abnn_serve.runtime.cuda_library import preload_libraries, use_gpu
from abnn_serve.runtime.drift import DRIFT_FILE, DriftMeter
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Settings

_START_SECONDS = 120  # longest time to import, open and warm up
_ON_GPU = ("cuda", "tensorrt")


def examine_in_process(case: Case, threads: int, seconds: float) -> CaseReport:
    """As `examine`, in a new process; also reports a crash and a process that does not end."""
    arguments = [case.bundle, case.precision, case.device, str(threads), str(seconds)]
    command = [sys.executable, "-m", "abnn_serve.doctor.case", *arguments]
    limit = _START_SECONDS + 3 * seconds
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)  # noqa: S603
    except subprocess.TimeoutExpired:
        return CaseReport(case=case, error=f"no result within {limit:.0f} s; choose another device")
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return from_json(CaseReport, json.loads(lines[-1]), "the case's process", DeviceError)
    reason = _signal_name(-done.returncode) if done.returncode < 0 else f"status {done.returncode}"
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    return CaseReport(case=case, error=f"the process ended with {reason}: {last}; choose another device")


def examine(case: Case, threads: int, seconds: float) -> CaseReport:
    """Open a case, replay its golden vectors for about `seconds`, and judge the result."""
    try:
        return judge(_measure(case, threads, seconds))
    except AbnnError as error:
        return CaseReport(case=case, error=one_line(error), libraries=_libraries(case))
    except Exception as error:  # the engines' exceptions have no common base class
        return CaseReport(
            case=case, error=f"{one_line(error)}; choose another device or precision", libraries=_libraries(case)
        )


def judge(report: CaseReport) -> CaseReport:
    """The report with its `error`, if a figure is out of bounds."""
    tolerance = report.tolerance or 0.0
    what = {
        "logits differ from the golden logits by": report.golden_error,
        "a sample's logits change with its batch by": report.neighbour_error,
        "logits in a second thread differ from the golden logits by": report.thread_error,
        "logits of random images differ from the CPU's by": report.cpu_error,
    }
    for text, value in what.items():
        if value is not None and not value <= tolerance:
            return replace(report, error=f"{text} {value:.2g}, {tolerance:.2g} is allowed; choose another device")
    if report.captures:
        text = f"{report.captures} batch sizes were captured again after warm-up"
        return replace(report, error=f"{text}; set ABNN_DEVICE=cpu, and report it")
    return report


def _measure(case: Case, threads: int, seconds: float) -> CaseReport:
    bundle, rng = load_bundle(case.bundle), np.random.default_rng(0)
    gpu = Settings.from_environment().gpu
    if case.device in _ON_GPU:
        preload_libraries()
        use_gpu(gpu or 0)
    before, started = _memory(case), time.perf_counter()
    session = Session(bundle, case.device, threads, case.precision, gpu)  # type: ignore[arg-type]
    report = CaseReport(
        case=case,
        open_seconds=time.perf_counter() - started,
        nodes={name: sum(kinds.values()) for name, kinds in session.placement.items()},
        graphs=getattr(session.engine, "graphs", None),
        tolerance=session.tolerance,
    )
    run, golden, largest = session.run, bundle.golden, session.max_batch
    replay = replay_shuffled(run, golden, largest, rng, seconds=seconds)
    thread_error, first = replay_in_thread(run, golden, largest)
    report = replace(
        report,
        rounds=replay.rounds,
        golden_error=replay.error,
        latencies=replay.latencies,
        neighbour_error=neighbour_error(run, golden, largest, rng),
        thread_error=thread_error,
        captures=count_captures(first, replay.latencies) if report.graphs else None,
        libraries=_libraries(case),
    )
    after = _memory(case)
    if case.precision == "fp32" and DRIFT_FILE in bundle.manifest.files:
        DriftMeter(session)
        report = replace(report, drift=True)
    report = replace(report, memory=None if before is None or after is None else max(0, after - before))
    if case.device == "cpu":
        return report
    reference = Session(bundle, "cpu", threads, "int8" if case.precision == "int8" else "fp32")
    sampling = bundle.manifest.input.sampling
    frames = sampling.frames if sampling else 1
    return replace(report, cpu_error=cpu_error(run, reference.run, bundle.manifest.input.shape, rng, frames=frames))


def _memory(case: Case) -> int | None:
    return gpu_memory_used() if case.device in _ON_GPU else resident_memory()


def _libraries(case: Case) -> dict[str, str]:
    return loaded_libraries() if case.device in _ON_GPU else {}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    _bundle, _precision, _device, _threads, _seconds = sys.argv[1:]
    _case = Case(bundle=str(Path(_bundle)), precision=_precision, device=_device)
    print(json.dumps(to_json(examine(_case, int(_threads), float(_seconds)))), flush=True)
    os._exit(0)  # on a lost GPU, destructors abort the process
