"""Offline scoring beside the raw session, decoding by picture size, more workers, Ray, and memory over many rows.

python benchmarks/score.py --quick                                  # the bar, in a minute; exits 1 if it is missed
python benchmarks/score.py --ray --out benchmarks/results/score-cpu.json
python benchmarks/score.py --memory 1000000 --bundle models/mine    # peak memory of all processes; bar: 1.5 GB

Where decoding has cores of its own, what bounds the engine is the work of the process that predicts. So the bar is on
that process's CPU seconds for each image against those of the raw session, in interleaved rounds: it does not depend on
how many cores there are, nor on who else uses them. Wall-clock rates stand beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing as mp
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from common.report import write_record
from PIL import Image

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import AbnnError
from abnn_serve.media.image import load_image
from abnn_serve.runtime.engine import max_batch
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import default_bundle
from abnn_serve.scoring.on_ray import RayPool
from abnn_serve.scoring.score import score

BAR = 0.90
MEMORY_BAR = 1.5e9
_ROUNDS = 3


def main() -> None:
    """Measure, print, write; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the bar and decoding only, on fewer rows")
    parser.add_argument("--ray", action="store_true", help="Ray too, on one actor (extra ray)")
    parser.add_argument("--memory", type=int, metavar="ROWS", help="only this: peak memory over so many rows")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    predictor = Predictor.open(options.bundle, device="cpu", threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.memory:
            found = _memory(predictor, folder, options.memory)
            held = found["peak_bytes"] < MEMORY_BAR
        else:
            rows = 2048 if options.quick else 16_384
            _write_rows(folder / "rows.parquet", rows, 32)
            found = {"bar": _beside_the_session(predictor, folder, rows), "decoding": _decoding(predictor)}
            if not options.quick:
                found["workers"] = _workers(predictor, folder, rows)
            if options.ray:
                found["ray"] = _ray(predictor, folder, rows)
            held = found["bar"]["ratio"] >= BAR
    print(json.dumps(found, indent=2))
    if options.out:
        write_record(options.out, vars(options), **found)
    sys.exit(not held)


def _picture(size: int, rng: np.random.Generator) -> bytes:
    """A JPEG of smooth noise, about as hard to decode as a photograph."""
    small = rng.integers(0, 256, (max(size // 8, 2),) * 2 + (3,), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _write_rows(path: Path, rows: int, size: int) -> None:
    """One row group, as most writers make it, of pictures that repeat."""
    rng = np.random.default_rng(0)
    pictures = [_picture(size, rng) for _ in range(256)]
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        table = pa.table({"image": (pictures * (rows // 256 + 1))[:rows], "label": [0] * rows}, schema=schema)
        writer.write_table(table, row_group_size=rows)


@contextmanager
def _clocked(into: list[tuple[float, float]]) -> Iterator[None]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.append((time.perf_counter() - wall, time.process_time() - cpu))


def _beside_the_session(predictor: Predictor, folder: Path, rows: int) -> dict[str, float]:
    raw = predictor.session._engine  # noqa: SLF001 - the very session that the predictor runs
    content = pq.read_table(folder / "rows.parquet")["image"].to_pylist()
    pixels = np.stack([predictor.decode(data) for data in content])
    raw_times: list[tuple[float, float]] = []
    engine_times: list[tuple[float, float]] = []
    for turn in range(_ROUNDS):
        with _clocked(raw_times):
            for batch in batch_slices(rows, max_batch()):
                raw.run(pixels[batch])
        with _clocked(engine_times):
            score(predictor, str(folder / "rows.parquet"), folder / f"bar-{turn}", workers=1)
    (raw_wall, raw_cpu), (wall, cpu) = (np.median(times, axis=0) for times in (raw_times, engine_times))
    return {
        "rows": rows,
        "ratio": round(float(raw_cpu / cpu), 4),
        "limit": BAR,
        "wall_ratio": round(float(raw_wall / wall), 4),
        "raw_images_per_cpu_second": round(float(rows / raw_cpu), 1),
        "engine_images_per_cpu_second": round(float(rows / cpu), 1),
        "raw_images_per_second": round(float(rows / raw_wall), 1),
        "engine_images_per_second": round(float(rows / wall), 1),
    }


def _decoding(predictor: Predictor) -> dict[str, float]:
    """CPU milliseconds to bring one JPEG to the model's input, by its side: what one decoding process can feed."""
    rng, spec = np.random.default_rng(0), predictor.bundle.manifest.input
    found = {}
    for size in (32, 224, 640, 1920):
        data = _picture(size, rng)
        repeats = max(20_000 // size, 10)
        start = time.process_time()
        for _ in range(repeats):
            load_image(data, spec, predictor.limits)
        found[f"{size}px_ms"] = round(1000 * (time.process_time() - start) / repeats, 3)
    return found


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return round(time.perf_counter() - start, 2)


def _workers(predictor: Predictor, folder: Path, rows: int) -> dict[str, float]:
    """Wall-clock seconds, the start of the processes included; pictures of 640 pixels, which are decode-bound."""
    _write_rows(folder / "large.parquet", rows // 8, 640)
    source = str(folder / "large.parquet")
    return {
        f"{count}_seconds": _seconds(lambda n=count: score(predictor, source, folder / f"w{n}", workers=n))  # type: ignore[misc]
        for count in (1, 2)
    }


def _ray(predictor: Predictor, folder: Path, rows: int) -> dict[str, float]:
    """Wall-clock seconds of the same rows here and on one actor; Ray's own start is counted apart."""
    import ray

    source = str(folder / "rows.parquet")
    start = _seconds(lambda: ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False))
    here = _seconds(lambda: score(predictor, source, folder / "here", shard_rows=rows // 8))
    there = _seconds(lambda: score(predictor, source, folder / "ray", shard_rows=rows // 8, ray=RayPool()))
    ray.shutdown()
    return {"start_seconds": start, "local_seconds": here, "one_actor_seconds": there}


def _memory(predictor: Predictor, folder: Path, rows: int) -> dict[str, Any]:
    """Resident bytes of this process and its decoders, sampled all along: the peak, and the mean of each tenth."""
    writer = mp.get_context("spawn").Process(target=_write_rows, args=(folder / "rows.parquet", rows, 32))
    writer.start()  # what it takes to write them is not ours
    writer.join()
    samples: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        own = psutil.Process()
        while not stop.wait(0.2):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            samples.append(total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        seconds = _seconds(lambda: score(predictor, str(folder / "rows.parquet"), folder / "out", workers=1))
    finally:
        stop.set()
        thread.join()
    tenths = [round(float(np.mean(part)) / 1e6) for part in np.array_split(samples, 10)]
    return {"rows": rows, "seconds": seconds, "peak_bytes": max(samples), "limit": MEMORY_BAR, "tenths_mb": tenths}


if __name__ == "__main__":
    try:
        main()
    except AbnnError as error:
        sys.exit(f"score: {error}")
