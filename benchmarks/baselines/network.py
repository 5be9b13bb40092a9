"""The run and the bundle that `benchmarks.serve` serves: briefly trained, as their speed does not depend on it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from abnn_serve.export.bundle import export_bundle
from abnn_serve.lab.data.load import load_data
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import Run
from abnn_serve.lab.training.train import train
from abnn_serve.spec import InputSpec, Precision
from benchmarks.common.images import shape_png

_IMAGES = 16
_CLASSES = ("circle", "square", "line")


def prepare(work: Path, network: str, size: int, precision: Precision = "fp32") -> tuple[Path, Path]:
    """Train on drawn shapes and export to `work`; return the run's and the bundle's folder.

    What an earlier call left in `work` is used again.
    """
    run, bundle = work / f"run-{network}-{size}", work / f"bundle-{network}-{size}-{precision}"
    if (bundle / "bundle.json").exists():
        return run, bundle
    spec, data = InputSpec(height=size, width=size), [str(work / f"{part}.parquet") for part in ("train", "val")]
    for offset, path in enumerate(data):
        _write_images(Path(path), 1000 * offset, size)
    print("training and exporting the network, once", file=sys.stderr)
    if not (run / "weights.pt").exists():
        recipe = replace(RECIPES["abnn"], epochs=1, batch_size=8)
        request = TrainRequest(
            recipe=recipe, target=network, substitute=network, data=data[0], val=data[1], input=spec, rank=64
        )
        train(request, run)
    calibration, held_out = (load_data(path, spec) for path in data)
    export_bundle(
        Run(run),
        bundle,
        held_out,
        parity_images=_IMAGES,
        tolerance=1e-3,
        precisions=tuple(dict.fromkeys(("fp32", precision))),
        calibration=calibration,
        allow_loss=True,
    )
    return run, bundle


def _write_images(path: Path, offset: int, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata={"classes": "\n".join(_CLASSES)})
    images = [shape_png(offset + index, size) for index in range(_IMAGES)]
    labels = [index % len(_CLASSES) for index in range(_IMAGES)]
    pq.write_table(pa.table({"image": images, "label": labels}, schema=schema), path)
