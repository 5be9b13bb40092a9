"""How does the cost of a defended answer grow with the batch, the image and the number of adaptive layers?

python -m benchmarks.scaling --out benchmarks/results/scaling-cpu

Fits a line to the median times of each series.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from abnn_serve.runtime.engine import OnnxEngine
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.fits import Line, fit_line
from benchmarks.common.plots import draw_scaling
from benchmarks.common.report import Bar, write_record
from benchmarks.common.timing import Call, interleaved, medians
from benchmarks.pair.graphs import add_pair_options, pair_graphs

BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (32, 64, 96, 128, 176, 224)
LAYERS = (1, 5, 10, 15, 20)
AXIS_LABELS = {
    "batch size": "images at 32x32",
    "image size": "thousands of pixels, batch 1",
    "adaptive layers": "layers of 20, one image at 64x64",
}


def main() -> list[Bar]:
    """Time and fit each series, print and write the results."""
    parser = new_parser("scaling", __doc__)
    add_pair_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="threads of one run")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds for each series")
    add_out_option(parser, "JSON and PNG")
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
    lines = {name: _fitted(cases, options.seconds) for name, cases in series.items()}
    for name, line in lines.items():
        fitted = f"{line.intercept:.2f} ms + {line.slope:.3f} ms each, r2 {line.r2:.4f}"
        print(f"{name} ({AXIS_LABELS[name]}): {fitted}")
        print("   " + "  ".join(f"{x:g}: {y:.2f}" for x, y in zip(line.at, line.milliseconds, strict=True)))
    if options.out:
        write_record(options.out, vars(options), series={name: asdict(line) for name, line in lines.items()})
        draw_scaling(lines, AXIS_LABELS, options.out.with_suffix(".png"))
    return []


def _case(model: bytes, size: int, batch: int, threads: int) -> Call:
    engine = OnnxEngine(model, threads)
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return lambda: engine.run(images)


def _fitted(cases: dict[float, Call], seconds: float) -> Line:
    """Time the cases, keyed by abscissa, and fit a line."""
    times = medians(interleaved({str(at): call for at, call in cases.items()}, seconds))
    return fit_line(list(cases), [1000 * times[str(at)] for at in cases])


if __name__ == "__main__":
    run("scaling", main)
