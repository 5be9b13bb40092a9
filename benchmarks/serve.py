"""This service beside plain BentoML + PyTorch and LitServe + PyTorch on the same network: closed loop, interleaved.

python benchmarks/serve.py --size 224 --out benchmarks/results/serve-224-cpu
python benchmarks/serve.py --size 224 --precision int8 --out benchmarks/results/serve-224-int8-cpu
python benchmarks/serve.py --size 32 --seconds 5

Target and substitute are torchvision's resnet18 (below 64 px resnet9-w64), trained for a moment on drawn shapes: what
is timed does not depend on what they learned. With int8 this service, `raw` and `predictor` run that variant with
OpenVINO, the others what they always do. All servers run one thread on the cores that this command may use
(`taskset`), and so does the client. In every round each server is asked at each concurrency in turn, so that other load
hits all alike; `raw` is the bundle's session alone, fed batches from memory, and `predictor` the Predictor on one
encoded picture.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common.report import write_record
from common.serving import ABNN, Sample, Server, closed_loop, running
from PIL import Image, ImageDraw

from abnn_serve.errors import AbnnError
from abnn_serve.export.bundle import export_bundle
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import TrainRequest, train
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import InputSpec, Precision

BASELINES = Path(__file__).parent / "baselines"
CONCURRENCY = (1, 8, 32)
RAW_BATCHES = (1, 8, 32)
DEVICES: dict[Precision, Device] = {"fp32": "cpu", "int8": "openvino"}
WARM_UP_SECONDS = 3.0
BARS = (  # what, its limit, whether that is the least, the sizes that it is for
    ("HTTP p50 - Predictor p50, concurrency 1, ms", 4.0, False, (32,)),
    ("images/s at concurrency 32 / raw session's best", 0.8, True, (224,)),
    ("images/s at concurrency 32 / BentoML + PyTorch", 2.0, True, (32, 224)),
)


def main() -> None:
    """Prepare, run the rounds, print, write; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one server at one concurrency in one round")
    parser.add_argument("--precision", choices=DEVICES, default="fp32", help="of the bundle")
    parser.add_argument("--network", help="of both, by the name that abnn train takes; resnet18, at 32 px resnet9-w64")
    parser.add_argument("--work", type=Path, help="where the network is kept for the next time")
    parser.add_argument("--out", type=Path, help="stem of the JSON file to write")
    options = parser.parse_args()
    options.network = options.network or ("resnet18" if options.size >= 64 else "resnet9-w64")  # it shrinks 32 times
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        device, precision = DEVICES[options.precision], options.precision
        run, bundle = prepare(work, options.network, options.size, precision)
        predictor = Predictor.open(bundle, device=device, threads=1, precision=precision)
        environment = {
            "ABNN_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "BENCH_RUN": str(run),
            "ABNN_BUNDLE": str(bundle),
            "ABNN_DEVICE": device,
            "ABNN_PRECISION": precision,
            "ABNN_DEADLINE_SECONDS": "60",  # the others have none of ten seconds
        }
        pictures = [_encoded(index, options.size, "PNG") for index in range(32)]
        servers = {
            name: stack.enter_context(_started(name, work, environment)) for name in ("abnn", "bentoml", "litserve")
        }
        samples = _rounds(options, servers, predictor, pictures)
    figures = _figures(samples)
    missed = _print(figures, options.size)
    if options.out:
        _write(options, figures, samples)
    sys.exit(1 if missed else 0)


def prepare(work: Path, network: str, size: int, precision: Precision = "fp32") -> tuple[Path, Path]:
    """A run and the bundle that was exported from it."""
    run, bundle = work / f"run-{network}-{size}", work / f"bundle-{network}-{size}-{precision}"
    if not (bundle / "bundle.json").exists():
        spec, data = InputSpec(height=size, width=size), [str(work / f"{part}.parquet") for part in ("train", "val")]
        for offset, path in enumerate(data):
            _write_data(Path(path), 16, 1000 * offset, size)
        recipe = replace(RECIPES["abnn"], epochs=1, batch_size=8)
        request = TrainRequest(
            recipe=recipe, target=network, substitute=network, data=data[0], val=data[1], input=spec, rank=64
        )
        print("training and exporting the network, once", file=sys.stderr)
        if not (run / "weights.pt").exists():
            train(request, run)
        calibration, held_out = (load_data(path, spec) for path in data)
        export_bundle(
            Run(run),
            bundle,
            held_out,
            parity_images=16,
            tolerance=1e-3,
            precisions=tuple(dict.fromkeys(("fp32", precision))),
            calibration=calibration,
            allow_loss=True,
        )
    return run, bundle


def _write_data(path: Path, count: int, offset: int, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata={"classes": "circle\nsquare\nline"})
    images = [_encoded(offset + index, size, "PNG") for index in range(count)]
    pq.write_table(pa.table({"image": images, "label": [i % 3 for i in range(count)]}, schema=schema), path)


def _encoded(index: int, size: int, form: str) -> bytes:
    """A drawing on noise, as a file."""
    rng = np.random.default_rng(index)
    image = Image.fromarray(rng.integers(0, 90, (size, size, 3), dtype=np.uint8))
    corner = rng.integers(0, size // 2, 2).tolist()
    box = (*corner, corner[0] + size // 2 - 1, corner[1] + size // 2 - 1)
    colour = tuple(rng.integers(100, 255, 3).tolist())
    pen = ImageDraw.Draw(image)
    (pen.ellipse, pen.rectangle, pen.line)[index % 3](box, fill=colour)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def _started(name: str, work: Path, environment: dict[str, str]) -> contextlib.AbstractContextManager[Server]:
    environment = {**environment, "BENTOML_HOME": str(work / f"home-{name}")}
    commands = {
        "abnn": (ABNN, "/readyz"),
        "bentoml": (("-m", "bentoml", "serve", "bento_torch:BentoTorch", "--working-dir", str(BASELINES)), "/readyz"),
        "litserve": ((str(BASELINES / "litserve_torch.py"),), "/health"),
    }
    command, ready = commands[name]
    return running(command, work / f"{name}.log", env=environment, ready=ready)


def _rounds(
    options: argparse.Namespace, servers: dict[str, Server], predictor: Predictor, pictures: Sequence[bytes]
) -> dict[str, list[tuple[float, list[Sample]]]]:
    """What was measured: seconds and samples, for each case and round."""
    paths = {"abnn": "/classify", "bentoml": "/classify", "litserve": "/predict"}
    urls = {name: server.url + paths[name] for name, server in servers.items()}
    for name, url in urls.items():
        for clients in CONCURRENCY:
            asyncio.run(_asked(name, url, pictures, clients, WARM_UP_SECONDS))
    found: dict[str, list[tuple[float, list[Sample]]]] = defaultdict(list)
    for _ in range(options.rounds):
        for clients in CONCURRENCY:
            for name, url in urls.items():
                found[f"{name} x{clients}"].append(asyncio.run(_asked(name, url, pictures, clients, options.seconds)))
            if clients == 1:
                found["predictor x1"].append(_alone(predictor, pictures, options.seconds))
        for batch in RAW_BATCHES:
            found[f"raw x{batch}"].append(_raw(predictor, pictures, batch, options.seconds))
    return found


async def _asked(
    name: str, url: str, pictures: Sequence[bytes], clients: int, seconds: float
) -> tuple[float, list[Sample]]:
    started = time.perf_counter()
    field = "images" if name == "bentoml" else "image"  # a batchable method of BentoML takes a list
    samples = await closed_loop(url, pictures, clients, seconds, field=field)
    return time.perf_counter() - started, samples


def _alone(predictor: Predictor, pictures: Sequence[bytes], seconds: float) -> tuple[float, list[Sample]]:
    return _timed(lambda turn: predictor.predict(predictor.decode(pictures[turn % len(pictures)])[None]), seconds)


def _raw(predictor: Predictor, pictures: Sequence[bytes], batch: int, seconds: float) -> tuple[float, list[Sample]]:
    images = np.stack([predictor.decode(pictures[index % len(pictures)]) for index in range(batch)])
    spent, samples = _timed(lambda _: predictor.session.run(images), seconds)
    return spent, samples * batch


def _timed(call: Any, seconds: float) -> tuple[float, list[Sample]]:
    samples: list[Sample] = []
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        call(len(samples))
        samples.append(Sample(at=now, seconds=time.perf_counter() - now, status=200))
    return time.perf_counter() - started, samples


def _figures(found: dict[str, list[tuple[float, list[Sample]]]]) -> dict[str, dict[str, Any]]:
    figures = {}
    for case, rounds in found.items():
        samples = [sample for _, of in rounds for sample in of]
        good = [sample.seconds for sample in samples if sample.status == 200]
        if not good:
            raise SystemExit(f"serve: {case} answered nothing with 200, but {sorted({s.status for s in samples})}")
        stages = {name for sample in samples for name in sample.stages}
        figures[case] = {
            "images_per_second": len(good) / sum(seconds for seconds, _ in rounds),
            "failed": len(samples) - len(good),
            **{f"p{q}_ms": 1000 * float(np.quantile(good, q / 100)) for q in (50, 95, 99)},
            "stages_ms": {
                name: 1000 * float(np.median([s.stages[name] for s in samples if name in s.stages]))
                for name in ("upload", "decode", "queue", "compute")
                if name in stages
            },
        }
    return figures


def _print(figures: dict[str, dict[str, Any]], size: int) -> int:
    for case, row in sorted(figures.items()):
        split = "  ".join(f"{name} {value:.1f}" for name, value in row["stages_ms"].items())
        print(
            f"{case:<14} {row['images_per_second']:8.1f} images/s   p50 {row['p50_ms']:8.1f} ms   "
            f"p95 {row['p95_ms']:8.1f}   p99 {row['p99_ms']:8.1f}   failed {row['failed']}   {split}"
        )
    missed = 0
    for (what, limit, least, sizes), measured in zip(BARS, bars(figures), strict=True):
        holds = measured >= limit if least else measured <= limit
        missed += not holds and size in sizes
        bar = f"{'>=' if least else '<='} {limit:.1f}{'' if holds else '  MISSED'}" if size in sizes else ""
        print(f"{what:<50} {measured:8.2f} {bar}")
    return missed


def bars(figures: dict[str, dict[str, Any]]) -> tuple[float, float, float]:
    """What was measured of each bar."""
    speed = figures["abnn x32"]["images_per_second"]
    best = max(row["images_per_second"] for case, row in figures.items() if case.startswith("raw"))
    return (
        figures["abnn x1"]["p50_ms"] - figures["predictor x1"]["p50_ms"],
        speed / best,
        speed / figures["bentoml x32"]["images_per_second"],
    )


def _write(options: argparse.Namespace, figures: dict[str, Any], found: dict[str, Any]) -> None:
    held = [{"what": b[0], "limit": b[1], "measured": m} for b, m in zip(BARS, bars(figures), strict=True)]
    samples = {
        case: [[round(1000 * sample.seconds, 2) for sample in of] for _, of in rounds] for case, rounds in found.items()
    }
    write_record(options.out.with_suffix(".json"), vars(options), bars=held, figures=figures, samples_ms=samples)


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"serve: {error}")
