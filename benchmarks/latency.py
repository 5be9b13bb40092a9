"""What does the fused pair cost, relative to its two networks run apart?

python -m benchmarks.latency --quick                       # only what the bars need, in about a minute
python -m benchmarks.latency --out benchmarks/results/latency-cpu
python -m benchmarks.latency --device cuda --out benchmarks/results/latency-cuda

All cases are timed in one interleaved run. Target and substitute are torchvision's resnet18 with random weights and
identical taps. Run apart, each has its BatchNorms folded; the target runs from the image to its logits, the substitute
to its last tap, as in the pair. A bar compares the faster engine's fused graph with the faster engine's two networks;
--quick measures OpenVINO alone if it is installed.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from abnn_serve.doctor.libraries import gpu_memory_used
from abnn_serve.hardware import resident_memory
from abnn_serve.lab.device import exact_fp32
from abnn_serve.runtime.providers import open_engine
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.ratios import Ratio, fastest
from benchmarks.common.report import Bar, gpu_record, write_record
from benchmarks.common.timing import interleaved, medians, with_memory
from benchmarks.pair.cases import FIRST, OPENVINO, pair_cases, predictor_cases
from benchmarks.pair.graphs import Graphs, add_pair_options, pair_graphs_resized, pair_graphs_together

Samples = dict[str, dict[str, list[float]]]  # seconds, by setting and case

_SECONDS = 20.0
_QUICK_SECONDS, _QUICK_SECONDS_FIRST = 1.0, 5.0

_FUSED = "fused / (target + substitute)"
_APART = tuple((f"target{engine}", f"substitute{engine}") for engine in ("", OPENVINO))
_ANY_FUSED, _ANY_TARGET = (((name,), (f"{name}{OPENVINO}",)) for name in ("fused", "target"))
RATIOS = (
    *(
        Ratio(name=_FUSED, setting=shape, numerators=_ANY_FUSED, denominators=_APART, limit=limit)
        for shape, limit in (("1x224x224", 1.05), ("8x224x224", 1.05), ("8x32x32", 1.15), ("1x32x32", 1.25))
    ),
    Ratio(
        name="fused int8 / undefended target",
        setting="1x224x224",
        numerators=(("int8",),),
        denominators=_ANY_TARGET,
        limit=1.0,
    ),
    Ratio(
        name="PyTorch eager / fused",
        setting="1x224x224",
        numerators=(("eager",),),
        denominators=_ANY_FUSED,
        limit=2.0,
        better="larger",
    ),
    Ratio(
        name="Predictor / raw session run",
        setting="default",
        numerators=(("predictor",),),
        denominators=(("raw",),),
        limit=1.10,
    ),
)
CUDA_RATIOS = (
    Ratio(name=f"{_FUSED}, fp32", setting="32x224x224", numerators=_ANY_FUSED, denominators=_APART, limit=1.10),
    Ratio(
        name=f"{_FUSED}, fp16",
        setting="32x224x224",
        numerators=(("fused fp16",),),
        denominators=(("target fp16", "substitute fp16"),),
        limit=1.10,
    ),
)


@exact_fp32()
def main() -> list[Bar]:
    """Time all cases, print and write the results."""
    parser = new_parser("latency", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and only the cases that the bars need")
    add_pair_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="threads of one run on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    add_out_option(parser, "JSON and PNG")
    options = parser.parse_args()
    gc.disable()  # as timeit does
    torch.set_num_threads(options.threads)
    samples, memory = _measure(options)
    _print(samples, memory)
    times = {shape: medians(cases) for shape, cases in samples.items()}
    bars = [ratio.bar(times) for ratio in _ratios(options.device)]
    if options.out:
        figures = {"memory_mb": memory, "seconds": samples}
        write_record(options.out, vars(options), bars, **gpu_record(options.device), **figures)
        from benchmarks.common.plots import draw_latency  # matplotlib would slow the start of a quick run

        draw_latency(over_apart(times), options.out.with_suffix(".png"))
    return bars


def over_apart(times: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median times of the pair's cases, divided by those of target + substitute on the faster engine."""
    apart = {shape: fastest(_APART, cases) for shape, cases in times.items()}
    return {shape: {name: time / base for name, time in times[shape].items()} for shape, base in apart.items() if base}


def _measure(options: argparse.Namespace) -> tuple[Samples, dict[str, dict[str, float]]]:
    """Seconds of every call, and megabytes that each case adds; --quick leaves memory out."""
    graphs = _graphs(options)
    engines = cache(open_engine) if options.quick else open_engine  # sharing engines would hide their memory
    samples: Samples = {}
    memory: dict[str, dict[str, float]] = {}
    for size in graphs:
        for batch in batches_of(options.device, size, quick=options.quick):
            shape = f"{batch}x{size}x{size}"
            makers = pair_cases(graphs[size], size, batch, options, engines)
            if options.quick:
                cases = {name: make() for name, make in makers.items()}
            else:
                measured = {name: with_memory(make, memory_of(options.device)) for name, make in makers.items()}
                memory[shape] = {name: added for name, (_, added) in measured.items()}
                cases = {name: call for name, (call, _) in measured.items()}
            quick = _QUICK_SECONDS_FIRST if (size, batch) == FIRST else _QUICK_SECONDS
            samples[shape] = interleaved(cases, quick if options.quick else _SECONDS, least_rounds=3)
    default = predictor_cases(options.device, options.threads)
    samples["default"] = interleaved(default, _QUICK_SECONDS if options.quick else _SECONDS)
    return samples, memory


def memory_of(device: str) -> Callable[[], int | None]:
    """Reads the bytes in use on the GPU, or held by this process."""
    return resident_memory if device == "cpu" else gpu_memory_used


def batches_of(device: str, size: int, *, quick: bool) -> tuple[int, ...]:
    """Batch sizes to time at `size` pixels; with `quick` only those that a bar of the device needs."""
    if not quick:
        return 1, 8, 32
    shapes = (ratio.setting.split("x") for ratio in _ratios(device) if ratio.setting != "default")
    return tuple(sorted({int(batch) for batch, height, _ in shapes if int(height) == size}))


def _ratios(device: str) -> tuple[Ratio, ...]:
    return RATIOS if device == "cpu" else CUDA_RATIOS


def _graphs(options: argparse.Namespace) -> dict[int, Graphs]:
    if options.quick and options.form == "conditional":
        return pair_graphs_resized(options.network, (224, 32), options.rank)
    return pair_graphs_together(options.network, (224, 32), options.rank, options.form)


def _print(samples: Samples, memory: dict[str, dict[str, float]]) -> None:
    for shape, cases in samples.items():
        for name, times in cases.items():
            p50, p95, p99 = (1000 * q for q in np.quantile(times, (0.5, 0.95, 0.99)))
            added = f"{memory[shape][name]:7.0f} MB" if shape in memory else ""
            print(f"{shape:>10}  {name:<20} p50 {p50:8.2f} ms   p95 {p95:8.2f}   p99 {p99:8.2f}  {added}")


if __name__ == "__main__":
    run("latency", main)
