"""How fast is offline scoring beside the raw session, and how much memory does it need?

python -m benchmarks.score --quick                                  # the bar and decoding, in a minute
python -m benchmarks.score --ray --out benchmarks/results/score-cpu
python -m benchmarks.score --memory 1000000 --bundle models/mine    # peak memory of all processes

If decoding has its own cores, the process that predicts limits the speed. The bar is therefore on that process's CPU
seconds per image, against those of the raw session, in interleaved rounds: it depends neither on the number of cores
nor on other load. Wall-clock rates are reported too. A full run adds decoding by image size, several workers and, with
--ray, one Ray actor.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from abnn_serve.arrays import batch_slices
from abnn_serve.media.image import load_image
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.scoring.on_ray import RayPool
from abnn_serve.scoring.score import score
from benchmarks.common.command import add_out_option, new_parser, run
from benchmarks.common.images import smooth_jpeg
from benchmarks.common.memory import resident_bytes
from benchmarks.common.report import Bar, write_record

SHARE_LIMIT = 0.90
MEMORY_LIMIT = 1.5e9
_ROUNDS = 3


def main() -> list[Bar]:
    """Measure, print and write the results."""
    parser = new_parser("score", __doc__)
    parser.add_argument("--quick", action="store_true", help="only the bar and decoding, on fewer rows")
    parser.add_argument("--ray", action="store_true", help="also score on one Ray actor (extra `ray`)")
    parser.add_argument("--memory", type=int, metavar="ROWS", help="measure only peak memory, over this many rows")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    add_out_option(parser)
    options = parser.parse_args()
    predictor = Predictor.open(options.bundle, device="cpu", threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.memory:
            figures = _memory(predictor, folder, options.memory)
            bars = [Bar(name="peak memory, GB", value=figures["peak_bytes"] / 1e9, limit=MEMORY_LIMIT / 1e9)]
        else:
            rows = 2048 if options.quick else 16_384
            _write_rows(folder / "rows.parquet", rows, 32)
            figures = {"rates": _rates(predictor, folder, rows), "decoding": _decoding(predictor)}
            if not options.quick:
                figures["workers"] = _workers(predictor, folder, rows)
            if options.ray:
                figures["ray"] = _ray(predictor, folder, rows)
            share = figures["rates"]["ratio"]
            name = "scored images per CPU second / raw session's"
            bars = [Bar(name=name, value=share, limit=SHARE_LIMIT, better="larger")]
    print(json.dumps(figures, indent=2))
    if options.out:
        write_record(options.out, vars(options), bars, **figures)
    return bars


def _write_rows(path: Path, rows: int, size: int) -> None:
    """Write repeated images as one row group, as most writers do."""
    rng = np.random.default_rng(0)
    images = [smooth_jpeg(size, rng) for _ in range(256)]
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        table = pa.table({"image": (images * (rows // 256 + 1))[:rows], "label": [0] * rows}, schema=schema)
        writer.write_table(table, row_group_size=rows)


@contextmanager
def _timed(samples: list[tuple[float, float]]) -> Iterator[None]:
    """Append the block's wall seconds and this process's CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    samples.append((time.perf_counter() - wall, time.process_time() - cpu))


def _rates(predictor: Predictor, folder: Path, rows: int) -> dict[str, float]:
    """Images per second of scoring (`engine`) and of the session alone on decoded images (`raw`)."""
    session = predictor.session.engine
    content = pq.read_table(folder / "rows.parquet")["image"].to_pylist()
    pixels = np.stack([predictor.decode(data) for data in content])
    raw_times: list[tuple[float, float]] = []
    engine_times: list[tuple[float, float]] = []
    for turn in range(_ROUNDS):
        with _timed(raw_times):
            for batch in batch_slices(rows, predictor.session.max_batch):
                session.run(pixels[batch])
        with _timed(engine_times):
            score(predictor, str(folder / "rows.parquet"), folder / f"bar-{turn}", workers=1)
    (raw_wall, raw_cpu), (wall, cpu) = (np.median(times, axis=0) for times in (raw_times, engine_times))
    return {
        "rows": rows,
        "ratio": round(float(raw_cpu / cpu), 4),
        "wall_ratio": round(float(raw_wall / wall), 4),
        "raw_images_per_cpu_second": round(float(rows / raw_cpu), 1),
        "engine_images_per_cpu_second": round(float(rows / cpu), 1),
        "raw_images_per_second": round(float(rows / raw_wall), 1),
        "engine_images_per_second": round(float(rows / wall), 1),
    }


def _decoding(predictor: Predictor) -> dict[str, float]:
    """CPU milliseconds to decode one JPEG and fit it to the model's input, by the JPEG's height and width."""
    rng, spec = np.random.default_rng(0), predictor.bundle.manifest.input
    milliseconds = {}
    for size in (32, 224, 640, 1920):
        data = smooth_jpeg(size, rng)
        repeats = max(20_000 // size, 10)
        start = time.process_time()
        for _ in range(repeats):
            load_image(data, spec, predictor.limits)
        milliseconds[f"{size}px_ms"] = round(1000 * (time.process_time() - start) / repeats, 3)
    return milliseconds


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return round(time.perf_counter() - start, 2)


def _workers(predictor: Predictor, folder: Path, rows: int) -> dict[str, float]:
    """Wall seconds with one and two workers, including their start, on images of 640 px: decoding limits the speed."""
    _write_rows(folder / "large.parquet", rows // 8, 640)
    source = str(folder / "large.parquet")
    return {
        f"{count}_seconds": _seconds(lambda n=count: score(predictor, source, folder / f"w{n}", workers=n))  # type: ignore[misc]
        for count in (1, 2)
    }


def _ray(predictor: Predictor, folder: Path, rows: int) -> dict[str, float]:
    """Wall seconds for the same rows in this process and on one actor; starting Ray is timed separately."""
    import ray

    source = str(folder / "rows.parquet")
    start = _seconds(lambda: ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False))
    local = _seconds(lambda: score(predictor, source, folder / "local", shard_rows=rows // 8))
    actor = _seconds(lambda: score(predictor, source, folder / "ray", shard_rows=rows // 8, ray=RayPool()))
    ray.shutdown()
    return {"start_seconds": start, "local_seconds": local, "one_actor_seconds": actor}


def _memory(predictor: Predictor, folder: Path, rows: int) -> dict[str, Any]:
    """Resident bytes of this process and its decoders: the peak, and the mean over each tenth of the run."""
    writer = mp.get_context("spawn").Process(target=_write_rows, args=(folder / "rows.parquet", rows, 32))
    writer.start()  # in a subprocess, so that its memory does not count
    writer.join()
    process = psutil.Process()
    with resident_bytes(lambda: [process, *process.children(recursive=True)], interval=0.2) as samples:
        seconds = _seconds(lambda: score(predictor, str(folder / "rows.parquet"), folder / "out", workers=1))
    tenths = [round(float(np.mean(part)) / 1e6) for part in np.array_split(samples, 10)]
    return {"rows": rows, "seconds": seconds, "peak_bytes": max(samples), "tenths_mb": tenths}


if __name__ == "__main__":
    run("score", main)
