"""What a defended answer costs as the batch, the image and the number of adaptive layers grow, with fitted lines.

python benchmarks/scaling.py --out benchmarks/results/scaling-cpu
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common.pairs import add_pair_options, pair_graphs
from common.report import write_record
from common.timing import Call, interleaved, medians
from matplotlib.figure import Figure

from abnn_serve.errors import AbnnError
from abnn_serve.runtime.engine import OnnxEngine

BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (32, 64, 96, 128, 176, 224)
LAYERS = (1, 5, 10, 15, 20)
_AXES = {
    "batch size": "images at 32x32",
    "image size": "thousands of pixels of one image",
    "adaptive layers": "of 20, one image at 64x64",
}
Line = tuple[list[float], list[float], float, float, float]


def main() -> None:
    """Time each series interleaved, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_options(parser)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each series")
    parser.add_argument("--out", type=Path, help="stem of the JSON and PNG files to write")
    options = parser.parse_args()
    network, rank, form, threads = options.network, options.rank, options.form, options.threads
    small = pair_graphs(network, 32, rank, form)["fused"]
    series = {
        "batch size": {float(n): _case(small, 32, n, threads) for n in BATCHES},
        "image size": {
            size * size / 1000: _case(pair_graphs(network, size, rank, form)["fused"], size, 1, threads)
            for size in SIZES
        },
        "adaptive layers": {
            float(n): _case(pair_graphs(network, 64, rank, form, n)["fused"], 64, 1, threads) for n in LAYERS
        },
    }
    lines = {name: _line(cases, options.seconds) for name, cases in series.items()}
    for name, (at, cost, slope, start, fit) in lines.items():
        print(f"{name} ({_AXES[name]}): {start:.2f} ms + {slope:.3f} ms each, r2 {fit:.4f}")
        print("   " + "  ".join(f"{x:g}: {y:.2f}" for x, y in zip(at, cost, strict=True)))
    if options.out:
        fields = ("at", "milliseconds", "slope", "intercept", "r2")
        figures = {name: dict(zip(fields, line, strict=True)) for name, line in lines.items()}
        write_record(options.out.with_suffix(".json"), vars(options), series=figures)
        _draw(lines, options.out.with_suffix(".png"))


def _case(model: bytes, size: int, batch: int, threads: int) -> Call:
    engine = OnnxEngine(model, threads)
    image = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return lambda: engine.run(image)


def _line(cases: dict[float, Call], seconds: float) -> Line:
    """Abscissae, median milliseconds, and slope, intercept and r2 of the least-squares line."""
    middle = medians(interleaved({str(at): call for at, call in cases.items()}, seconds))
    at, cost = list(cases), [1000 * middle[str(at)] for at in cases]
    slope, start = np.polyfit(at, cost, 1)
    fit = float(np.corrcoef(at, cost)[0, 1] ** 2)
    return at, cost, float(slope), float(start), fit


def _draw(lines: dict[str, Line], path: Path) -> None:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axis, (name, (at, cost, slope, start, fit)) in zip(figure.subplots(1, len(lines)), lines.items(), strict=True):
        axis.plot(at, cost, "o")
        axis.plot(at, [start + slope * x for x in at], label=f"{start:.1f} + {slope:.2f} x, r2 {fit:.3f}")
        axis.set(title=name, xlabel=_AXES[name], ylabel="median ms")
        axis.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"scaling: {error}")
