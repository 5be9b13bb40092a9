"""What the fused pair costs beside its two networks run apart, all timed in one interleaved run.

python benchmarks/latency.py --quick                       # the bars, in a minute or less; exits 1 if one is missed
python benchmarks/latency.py --out benchmarks/results/latency-cpu
python benchmarks/latency.py --device cuda --out benchmarks/results/latency-cuda

Target and substitute are torchvision's resnet18 with random weights and identical taps. Each alone has its BatchNorms
folded; the target goes from the image to its logits, the substitute to its last tap, as in the pair. Each bar holds the
faster engine's fused graph against the faster engine's two networks; --quick measures OpenVINO alone where it is there.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.pairs import Graphs, add_pair_options, build_pair, pair_graphs_resized, pair_graphs_together
from common.report import Bar, bar_records, device_of, print_bars, sums, write_record
from common.timing import Call, interleaved, medians, with_memory

from abnn_serve.errors import AbnnError
from abnn_serve.export.fp16 import to_fp16
from abnn_serve.export.int8 import to_int8
from abnn_serve.lab.abnn.network import ServedNetwork
from abnn_serve.lab.device import exact_fp32
from abnn_serve.runtime.engine import Engine
from abnn_serve.runtime.open_vino import bf16_is_there, openvino_is_there
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.providers import open_engine
from abnn_serve.runtime.settings import Device, default_bundle
from abnn_serve.spec import Precision

FIRST = (224, 1)  # pixels and batch: where all that the bars name is timed
QUICK_SECONDS = 5.0  # there; one elsewhere
Images = np.ndarray[Any, Any]

PARTS = ("target", "substitute", "fused")
OPENVINO = ", OpenVINO"  # ending of the names of cases; ONNX Runtime has none

_FUSED = "fused / (target + substitute)"
_APART = tuple((f"target{engine}", f"substitute{engine}") for engine in ("", OPENVINO))
_ANY_FUSED, _ANY_TARGET = (((name,), (f"{name}{OPENVINO}",)) for name in ("fused", "target"))
BARS = (
    *(
        Bar(what=_FUSED, setting=setting, over=_ANY_FUSED, under=_APART, limit=limit)
        for setting, limit in (("1x224x224", 1.05), ("8x224x224", 1.05), ("8x32x32", 1.15), ("1x32x32", 1.25))
    ),
    Bar(what="fused int8 / undefended target", setting="1x224x224", over=(("int8",),), under=_ANY_TARGET, limit=1.0),
    Bar(what="PyTorch eager / fused", setting="1x224x224", over=(("eager",),), under=_ANY_FUSED, limit=2.0, least=True),
    Bar(what="Predictor / raw session run", setting="default", over=(("predictor",),), under=(("raw",),), limit=1.10),
)
CUDA_BARS = (
    Bar(what=f"{_FUSED}, fp32", setting="32x224x224", over=_ANY_FUSED, under=_APART, limit=1.10),
    Bar(
        what=f"{_FUSED}, fp16",
        setting="32x224x224",
        over=(("fused fp16",),),
        under=(("target fp16", "substitute fp16"),),
        limit=1.10,
    ),
)


@exact_fp32()
def main() -> None:
    """Build, time, print, write; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and only what the bars need")
    add_pair_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="of one run on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="stem of the JSON and PNG files to write")
    options = parser.parse_args()
    gc.disable()  # as timeit does
    torch.set_num_threads(options.threads)
    graphs = _graphs(options)
    engines = cache(open_engine) if options.quick else open_engine  # one for every batch, where memory is not measured
    samples: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, dict[str, float]] = {}
    for size in graphs:
        for batch in batches_of(options.device, size, quick=options.quick):
            setting = f"{batch}x{size}x{size}"
            makers = _makers(graphs[size], size, batch, options, engines)
            if options.quick:
                cases = {name: make() for name, make in makers.items()}
            else:
                measured = {name: with_memory(make) for name, make in makers.items()}
                memory[setting] = {name: added for name, (_, added) in measured.items()}
                cases = {name: call for name, (call, _) in measured.items()}
            seconds = (QUICK_SECONDS if (size, batch) == FIRST else 1.0) if options.quick else 20.0
            samples[setting] = interleaved(cases, seconds, least_rounds=3)
    samples["default"] = interleaved(_default_bundle(options.device, options.threads), 1.0 if options.quick else 20.0)
    middle = {setting: medians(of) for setting, of in samples.items()}
    _print(samples, memory)
    bars = BARS if options.device == "cpu" else CUDA_BARS
    missed = print_bars(bars, middle)
    if options.out:
        figures = {"bars": bar_records(bars, middle), "memory_mb": memory, "seconds": samples}
        write_record(options.out.with_suffix(".json"), vars(options), **device_of(options.device), **figures)
        _draw(middle, options.out.with_suffix(".png"))
    sys.exit(1 if missed else 0)


def batches_of(device: str, size: int, *, quick: bool) -> tuple[int, ...]:
    """Batch sizes to time at `size` pixels: all, or those that a bar of the device names."""
    if not quick:
        return 1, 8, 32
    bars = BARS if device == "cpu" else CUDA_BARS
    named = (bar.setting.split("x") for bar in bars if bar.setting != "default")
    return tuple(sorted({int(batch) for batch, height, _ in named if int(height) == size}))


def _graphs(options: argparse.Namespace) -> dict[int, Graphs]:
    if options.quick and options.form == "conditional":
        return pair_graphs_resized(options.network, (224, 32), options.rank)
    return pair_graphs_together(options.network, (224, 32), options.rank, options.form)


def _makers(
    graphs: Graphs, size: int, batch: int, options: argparse.Namespace, engines: Callable[..., Engine]
) -> dict[str, Callable[[], Call]]:
    """By name, what prepares a case: only what the bars need where the run is to be quick."""
    image = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    def case(model: bytes, device: Device = options.device, precision: Precision = "fp32") -> Call:
        engine = engines(model, device, options.threads, precision)
        return lambda: engine.run(image)

    def in_fp16(model: bytes) -> Call:
        return case(to_fp16(model))

    quick, on_cpu = options.quick, options.device == "cpu"
    open_vino = on_cpu and openvino_is_there()
    first = (size, batch) == FIRST
    makers: dict[str, Callable[[], Call]] = {}
    if not (quick and open_vino):
        makers |= {name: partial(case, graphs[name]) for name in PARTS}
    if not on_cpu:
        makers |= {f"{name} fp16": partial(in_fp16, graphs[name]) for name in PARTS}
    if open_vino:
        makers |= {f"{name}{OPENVINO}": partial(case, graphs[name], "openvino") for name in PARTS}
    if open_vino and (first or not quick):
        makers["int8"] = lambda: case(to_int8(graphs["fused"], image), "openvino")
    if first or not quick:
        makers["eager"] = lambda: _torch(image, options)
    return makers if quick else makers | _beyond_the_bars(graphs, image, case, options)


def _beyond_the_bars(
    graphs: Graphs, image: Images, case: Callable[..., Call], options: argparse.Namespace
) -> dict[str, Callable[[], Call]]:
    makers: dict[str, Callable[[], Call]] = {
        "exported": lambda: case(graphs["exported"]),
        "two sessions": lambda: _in_turn(case(graphs["target"]), case(graphs["substitute"])),
        "torch.compile": lambda: _torch(image, options, compiled=True),
    }
    if options.device == "cpu":
        makers["int8, ONNX Runtime"] = lambda: case(to_int8(graphs["fused"], image))
        if openvino_is_there() and bf16_is_there():
            makers["bf16"] = lambda: case(graphs["fused"], "openvino", "bf16")
    return makers


def _in_turn(*calls: Call) -> Call:
    return lambda: [call() for call in calls]


def _torch(image: Images, options: argparse.Namespace, *, compiled: bool = False) -> Call:
    network = (
        ServedNetwork(build_pair(options.network, image.shape[1], options.rank, options.form)).eval().to(options.device)
    )
    run = torch.compile(network) if compiled else network
    tensor = torch.from_numpy(image)

    def call() -> object:
        with torch.inference_mode():
            return run(tensor.to(options.device)).cpu()

    return call


def _default_bundle(device: Device, threads: int) -> dict[str, Call]:
    predictor = Predictor.open(default_bundle(), device=device, threads=threads)
    image = predictor.bundle.golden.inputs[:1]
    raw = predictor.session._engine  # noqa: SLF001 - the very session that the predictor runs
    return {"raw": lambda: raw.run(image), "predictor": lambda: predictor.predict(image)}


def _print(samples: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, float]]) -> None:
    for setting, of in samples.items():
        for name, times in of.items():
            p50, p95, p99 = (1000 * q for q in np.quantile(times, (0.5, 0.95, 0.99)))
            added = f"{memory[setting][name]:7.0f} MB" if setting in memory else ""
            print(f"{setting:>10}  {name:<20} p50 {p50:8.2f} ms   p95 {p95:8.2f}   p99 {p99:8.2f}  {added}")


def _draw(middle: dict[str, dict[str, float]], path: Path) -> None:
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axis = figure.subplots()
    settings = [setting for setting in middle if setting != "default"]
    axis.set_prop_cycle(color=color_sequences["tab20"])
    names = sorted({name for setting in settings for name in middle[setting]})
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        shown = [(position, setting) for position, setting in enumerate(settings) if name in middle[setting]]
        heights = [middle[s][name] / min(sums(_APART, middle[s])) for _, s in shown]
        axis.bar([position + i * width for position, _ in shown], heights, width, label=name)
    axis.axhline(1, color="black", linewidth=1)
    axis.legend(ncols=2)
    axis.set_xticks([position + 0.4 - width / 2 for position in range(len(settings))], settings)
    axis.set_ylabel("median time over target + substitute run apart")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"latency: {error}")
