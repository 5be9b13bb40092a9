"""How fast is this service beside plain BentoML + PyTorch and LitServe + PyTorch on the same network?

python -m benchmarks.serve --size 224 --out benchmarks/results/serve-224-cpu
python -m benchmarks.serve --size 224 --precision int8 --out benchmarks/results/serve-224-int8-cpu
python -m benchmarks.serve --size 32 --seconds 5

Target and substitute are torchvision's resnet18 (below 64 px resnet9-w64), briefly trained on drawn shapes; the speed
does not depend on what they learned. With --precision int8 this service, `raw` and `predictor` run the int8 graph with
OpenVINO, the other two servers stay in fp32. Each server runs one thread, and shares the cores that this command may
use (`taskset`) with the client. Every round loads each server at each concurrency in turn, so that other load on the
machine hits all alike. `raw` is the bundle's session alone on batches in memory, `predictor` the Predictor on one
encoded image. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision
from benchmarks.baselines.network import prepare
from benchmarks.baselines.rounds import run_rounds, summarised
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import shape_png
from benchmarks.common.report import Bar, write_record
from benchmarks.common.servers import ABNN, Server, running

DEVICES: dict[Precision, Device] = {"fp32": "cpu", "int8": "openvino"}
COMMANDS = {  # arguments of `python`, path that answers 200 when ready, path to POST to
    "abnn": (ABNN, "/readyz", "/classify"),
    "bentoml": (("-m", "bentoml", "serve", "benchmarks.baselines.bento_torch:BentoTorch"), "/readyz", "/classify"),
    "litserve": (("-m", "benchmarks.baselines.litserve_torch"), "/health", "/predict"),
}


def main() -> list[Bar]:
    """Prepare the servers, run the rounds, print and write the results."""
    options = _options()
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        device, precision = DEVICES[options.precision], options.precision
        trained, bundle = prepare(work, options.network, options.size, precision)
        predictor = Predictor.open(bundle, device=device, threads=1, precision=precision)
        environment = {
            "ABNN_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "BENCH_RUN": str(trained),
            "ABNN_BUNDLE": str(bundle),
            "ABNN_DEVICE": device,
            "ABNN_PRECISION": precision,
            "ABNN_DEADLINE_SECONDS": "60",  # the other servers have no deadline of ten seconds
        }
        servers = {name: stack.enter_context(_started(name, work, environment)) for name in COMMANDS}
        urls = {name: server.url + COMMANDS[name][2] for name, server in servers.items()}
        images = [shape_png(index, options.size) for index in range(32)]
        rounds = run_rounds(options.rounds, options.seconds, urls, predictor, images)
    figures = summarised(rounds)
    _print(figures)
    bars = bars_of(figures, options.size)
    if options.out:
        samples = {
            case: [[round(1000 * sample.seconds, 2) for sample in samples] for _, samples in runs]
            for case, runs in rounds.items()
        }
        write_record(options.out, vars(options), bars, figures=figures, samples_ms=samples)
    return bars


def _options() -> argparse.Namespace:
    parser = new_parser("serve", __doc__)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds for one case in one round")
    parser.add_argument("--precision", choices=DEVICES, default="fp32", help="precision of the bundle")
    parser.add_argument("--network", help="target and substitute; default resnet18, below 64 px resnet9-w64")
    parser.add_argument("--work", type=Path, help="folder that keeps the network for later runs")
    add_out_option(parser)
    options = parser.parse_args()
    options.network = options.network or ("resnet18" if options.size >= 64 else "resnet9-w64")  # resnet18 divides by 32
    return options


def bars_of(figures: dict[str, dict[str, Any]], size: int) -> list[Bar]:
    """The bars for a run's figures: two at each size, the first at 32 px only, the second at 224 px only."""
    speed = figures["abnn x32"]["images_per_second"]
    raw = max(row["images_per_second"] for case, row in figures.items() if case.startswith("raw"))
    overhead = figures["abnn x1"]["p50_ms"] - figures["predictor x1"]["p50_ms"]
    baseline = Bar(
        name="images/s at concurrency 32 / BentoML + PyTorch",
        value=speed / figures["bentoml x32"]["images_per_second"],
        limit=2.0,
        better="larger",
    )
    share = Bar(name="images/s at concurrency 32 / raw session's best", value=speed / raw, limit=0.8, better="larger")
    if size == 32:
        return [Bar(name="HTTP p50 - Predictor p50, concurrency 1, ms", value=overhead, limit=4.0), baseline]
    return [share, baseline] if size == 224 else []


def _started(name: str, work: Path, environment: dict[str, str]) -> contextlib.AbstractContextManager[Server]:
    command, ready, _ = COMMANDS[name]
    environment = {**environment, "BENTOML_HOME": str(work / f"home-{name}")}
    return running(command, work / f"{name}.log", env=environment, ready=ready)


def _print(figures: dict[str, dict[str, Any]]) -> None:
    for case, row in sorted(figures.items()):
        stages = "  ".join(f"{name} {value:.1f}" for name, value in row["stages_ms"].items())
        print(
            f"{case:<14} {row['images_per_second']:8.1f} images/s   p50 {row['p50_ms']:8.1f} ms   "
            f"p95 {row['p95_ms']:8.1f}   p99 {row['p99_ms']:8.1f}   failed {row['failed']}   {stages}"
        )


if __name__ == "__main__":
    run("serve", main)
