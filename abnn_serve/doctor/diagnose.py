"""The whole examination: which cases there are, one after the other, and what they recommend."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.card import Accuracy
from abnn_serve.doctor.case import examine_in_process
from abnn_serve.doctor.environment import check_environment
from abnn_serve.doctor.report import Case, CaseReport, Choice, Report, TrainingReport
from abnn_serve.doctor.training import train_in_process
from abnn_serve.hardware import has_cuda_device
from abnn_serve.runtime.open_vino import has_bf16, has_openvino
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision

PRECISIONS: dict[Device, tuple[Precision, ...]] = {
    "cpu": ("fp32", "int8", "fp16"),
    "openvino": ("fp32", "int8", "bf16"),
    "cuda": ("fp32", "fp16"),
    "tensorrt": ("fp32", "fp16", "int8"),
}  # that each device runs; the order is that of the report

_TRAINS: tuple[Device, ...] = ("auto", "cpu", "cuda")


def diagnose(
    paths: Sequence[Path],
    device: Device,
    threads: int,
    seconds: float,
    on_case: Callable[[Case, int, int], None] = lambda *_: None,
    on_training: Callable[[], None] | None = None,
) -> Report:
    """Check the environment, every bundle in each precision on each device, and training where torch is installed.

    Args:
        paths: directories of bundles.
        device: examine this one only; `auto` examines all that this machine has, except TensorRT.
        threads: threads per run on the CPU.
        seconds: time for all cases, at least two rounds of each.
        on_case: called with each case, its number from 1, and the number of cases.
        on_training: called before training, which the devices openvino and tensorrt do not have; None omits it.

    Raises:
        BundleError: a bundle cannot be read.
    """
    started = time.perf_counter()
    bundles = [load_bundle(path) for path in paths]
    environment = check_environment(on_gpu=device in ("cuda", "tensorrt"))
    cases = [case for bundle in bundles for case in cases_of(bundle, devices(device))]
    reports: list[CaseReport] = []
    end = time.perf_counter() + seconds
    for number, case in enumerate(cases, start=1):
        on_case(case, number, len(cases))
        left = max(0.0, end - time.perf_counter())  # what quick cases leave goes to slow ones
        reports.append(examine_in_process(case, threads, left / (len(cases) - len(reports))))
    training: tuple[TrainingReport, ...] = ()
    if device in _TRAINS and on_training is not None:
        on_training()
        training = train_in_process(device)
    choices = [choice for bundle in bundles if (choice := choose(bundle, reports))]
    return Report(
        environment=tuple(environment),
        cases=tuple(reports),
        training=training,
        choices=tuple(choices),
        seconds=round(time.perf_counter() - started, 1),
    )


def devices(device: Device) -> list[Device]:
    """The devices to examine."""
    if device != "auto":
        return [device]
    found: list[Device] = ["cpu"]
    return found + (["openvino"] if has_openvino() else []) + (["cuda"] if has_cuda_device() else [])


def cases_of(bundle: Bundle, on: Sequence[Device]) -> list[Case]:
    """The precisions of a bundle that each device runs; bf16 only if the CPU computes in it."""
    return [
        Case(bundle=str(bundle.path), precision=precision, device=device)
        for device in on
        for precision in PRECISIONS[device]
        if precision in bundle.manifest.precisions and (precision != "bf16" or has_bf16())
    ]


def choose(bundle: Bundle, reports: Sequence[CaseReport]) -> Choice | None:
    """The fastest case of a bundle for one sample, of those without an error; None if all have one."""
    times = {
        report.case: report.latencies[0].p50
        for report in reports
        if report.case.bundle == str(bundle.path) and not report.error and report.latencies
    }
    if not times:
        return None
    best, *others = sorted(times, key=lambda case: times[case])
    reason = f"{1000 * times[best]:.2f} ms for one sample, the fastest"
    if others:
        second = others[0]
        reason += f"; {second.device} in {second.precision} takes {1000 * times[second]:.2f} ms"
    if best.precision != "fp32":
        reason += f"; clean accuracy {_clean(bundle, best.precision)}, in fp32 {_clean(bundle, 'fp32')}"
    return Choice(bundle=best.bundle, device=best.device, precision=best.precision, reason=reason)


def _clean(bundle: Bundle, precision: str) -> str:
    of_variants = [variant.clean for variant in bundle.card.variants if variant.precision == precision]
    accuracy: Accuracy | None = bundle.card.clean if precision == "fp32" else min(of_variants, key=lambda a: a.value)
    return "not measured" if accuracy is None else f"{accuracy.value:.1%}"
