"""What the fused pair costs beside its two networks run apart: one thread, fp32, all timed in one interleaved run.

python benchmarks/latency.py --quick                       # the bars, in under a minute; exits 1 if one is missed
python benchmarks/latency.py --out benchmarks/results/latency-cpu

Target and substitute are torchvision's resnet18 with random weights and identical taps. Each alone is the part of the
exported pair from the image to its last tap, BatchNorms folded: the substitute's, in two sessions, as the target's is
the same network. What lies behind (pooling and a classifier) is left out, which makes the bars a little harder.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from matplotlib.figure import Figure
from torch import nn

from abnn_serve.bundle.manifest import Pair
from abnn_serve.errors import AbnnError
from abnn_serve.hardware import describe_cpu
from abnn_serve.lab.export.graph import ServedNetwork, export_stages
from abnn_serve.lab.network import AdaptiveNetwork, PixelNetwork
from abnn_serve.lab.pairing import SurgeryPlan
from abnn_serve.lab.surgery import apply_plan
from abnn_serve.lab.zoo import build_network
from abnn_serve.runtime.engine import open_graph
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.spec import InputSpec

RANK = 64
LEAST_ROUNDS = 4
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A ratio of two medians (sums, where several cases are named) and its limit; `least` turns it round."""

    what: str
    setting: str
    over: tuple[str, ...]
    under: tuple[str, ...]
    limit: float
    least: bool = False

    def ratio(self, medians: dict[str, float]) -> float:
        """The measured ratio."""
        return sum(medians[name] for name in self.over) / sum(medians[name] for name in self.under)

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is on the right side of the limit."""
        return ratio >= self.limit if self.least else ratio <= self.limit


_APART = ("target", "substitute")
BARS = (
    Bar(what="fused / (target + substitute)", setting="1x224x224", over=("fused",), under=_APART, limit=1.05),
    Bar(what="fused / (target + substitute)", setting="8x224x224", over=("fused",), under=_APART, limit=1.05),
    Bar(what="fused / (target + substitute)", setting="8x32x32", over=("fused",), under=_APART, limit=1.15),
    Bar(what="fused / (target + substitute)", setting="1x32x32", over=("fused",), under=_APART, limit=1.25),
    Bar(what="PyTorch eager / fused", setting="1x224x224", over=("eager",), under=("fused",), limit=2.0, least=True),
    Bar(what="Predictor / raw session run", setting="default", over=("predictor",), under=("raw",), limit=1.10),
)


def main() -> None:
    """Build, time, print, write; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and only what the bars need")
    parser.add_argument("--network", default="resnet18", help="of both, by the name that abnn train takes")
    parser.add_argument("--rank", type=int, default=RANK, help="of the maps; 0 leaves them full")
    parser.add_argument("--out", type=Path, help="stem of the JSON and PNG files to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds = 5.0 if options.quick else 60.0
    samples: dict[str, dict[str, list[float]]] = {}
    for size, batches in ((224, (1, 8)), (32, (1, 8) if options.quick else (1, 8, 32))):
        network, stages = _pair(options.network, size, options.rank)
        for batch in batches:
            cases = _cases(network, stages, size, batch, quick=options.quick)
            samples[f"{batch}x{size}x{size}"] = _interleaved(cases, seconds)
    samples["default"] = _interleaved(_default_bundle(), seconds)
    medians = {
        setting: {name: float(np.median(times)) for name, times in of.items()} for setting, of in samples.items()
    }
    missed = _print(samples, medians)
    if options.out:
        _write(options, samples, medians)
    sys.exit(1 if missed else 0)


def _pair(name: str, size: int, rank: int) -> tuple[AdaptiveNetwork, dict[str, bytes]]:
    """The adaptive network, and its graphs: `exported`, `fused` and `alone`."""
    torch.manual_seed(0)
    target, substitute = (PixelNetwork(build_network(name, num_classes=1000)) for _ in range(2))
    for plain in (target, substitute):
        plain.train()(torch.rand(8, 3, size, size))  # running statistics of some input
        plain.eval()
    norms = {n: m.num_features for n, m in target.body.named_modules() if isinstance(m, nn.BatchNorm2d)}
    pairs = tuple(Pair(target=n, substitute=n, channels=width, statistics=width) for n, width in norms.items())
    network = apply_plan(target, substitute, SurgeryPlan(pairs=pairs, rank=rank or None)).eval()
    for layer in network.adaptive_layers:
        nn.init.normal_(layer.map, std=0.005)
    stages = export_stages(network, InputSpec(height=size, width=size))
    exported, fused = stages[0].model, stages[-1].model
    return network, {"exported": exported, "fused": fused, "alone": _alone(exported)}


def _alone(exported: bytes) -> bytes:
    """The substitute from the image to its last tapped convolution."""
    model = onnx.load_from_string(exported)
    last = [node for node in model.graph.node if node.op_type == "Conv" and "substitute" in node.input[1]][-1]
    (tap,) = last.output
    return bytes(onnx.utils.Extractor(model).extract_model(["image"], [tap]).SerializeToString())


def _cases(
    network: AdaptiveNetwork, graphs: dict[str, bytes], size: int, batch: int, *, quick: bool
) -> dict[str, Call]:
    image = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    calls = {"target": "alone", "substitute": "alone", "fused": "fused"} | ({} if quick else {"exported": "exported"})
    cases = {name: _session(graphs[graph], image) for name, graph in calls.items()}
    served, tensor = ServedNetwork(network).eval(), torch.from_numpy(image)
    if not quick or (size, batch) == (224, 1):
        cases["eager"] = lambda: _no_grad(served, tensor)
    if not quick:
        compiled = torch.compile(served)
        cases["torch.compile"] = lambda: _no_grad(compiled, tensor)
        cases |= _openvino(graphs["fused"], image)
    return cases


def _session(model: bytes, image: np.ndarray[Any, Any]) -> Call:
    session = open_graph(model, 1)
    return lambda: session.run(None, {"image": image})


def _no_grad(network: Callable[..., object], tensor: torch.Tensor) -> object:
    with torch.inference_mode():
        return network(tensor)


def _openvino(model: bytes, image: np.ndarray[Any, Any]) -> dict[str, Call]:
    """The same file in OpenVINO, where it is installed."""
    try:
        import openvino
    except ImportError:
        return {}
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape(list(image.shape))
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(read, "CPU", settings).create_infer_request()
    return {"openvino": lambda: request.infer({0: image})}


def _default_bundle() -> dict[str, Call]:
    predictor = Predictor.open(default_bundle(), device="cpu", threads=1)
    image = predictor.bundle.golden.inputs[:1]
    engine = predictor.session._engine  # noqa: SLF001 - the very session that the predictor runs
    return {"raw": lambda: engine.run(image), "predictor": lambda: predictor.predict(image)}


def _interleaved(cases: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, the cases in turn; before each timed call one that is not, to bring its weights near."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < LEAST_ROUNDS:
        for name, call in cases.items():
            call()
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return samples


def _print(samples: dict[str, dict[str, list[float]]], medians: dict[str, dict[str, float]]) -> int:
    for setting, of in samples.items():
        for name, times in of.items():
            p50, p95, p99 = (1000 * q for q in np.quantile(times, (0.5, 0.95, 0.99)))
            print(f"{setting:>10}  {name:<14} p50 {p50:8.2f} ms   p95 {p95:8.2f}   p99 {p99:8.2f}")
    missed = 0
    print(f"\n{'what':<32} {'input':<11} {'measured':>8} {'bar':>8}")
    for bar in BARS:
        ratio = bar.ratio(medians[bar.setting])
        missed += not bar.holds(ratio)
        sign, verdict = (">=", "<=")[not bar.least], "" if bar.holds(ratio) else "  MISSED"
        print(f"{bar.what:<32} {bar.setting:<11} {ratio:8.3f} {sign}{bar.limit:6.2f}{verdict}")
    return missed


def _write(options: argparse.Namespace, samples: dict[str, Any], medians: dict[str, dict[str, float]]) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "hardware": describe_cpu(),
        "threads": 1,
        "versions": {"torch": torch.__version__, "onnxruntime": ort.__version__},
        "network": options.network,
        "rank": options.rank,
        "bars": [
            {"what": b.what, "input": b.setting, "limit": b.limit, "measured": b.ratio(medians[b.setting])}
            for b in BARS
        ],
        "seconds": samples,
    }
    options.out.with_suffix(".json").write_text(json.dumps(record) + "\n")
    _draw(medians, options.out.with_suffix(".png"))


def _draw(medians: dict[str, dict[str, float]], path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    settings = [setting for setting in medians if setting != "default"]
    names = list(medians[settings[0]])
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        shown = [(position, setting) for position, setting in enumerate(settings) if name in medians[setting]]
        heights = [medians[s][name] / sum(medians[s][alone] for alone in _APART) for _, s in shown]
        axis.bar([position + i * width for position, _ in shown], heights, width, label=name)
    axis.axhline(1, color="black", linewidth=1)
    axis.legend()
    axis.set_xticks([position + 0.4 - width / 2 for position in range(len(settings))], settings)
    axis.set_ylabel("median time over target + substitute run apart")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"latency: {error}")
