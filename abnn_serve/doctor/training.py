"""Trains small networks for fifty steps, plain and adaptive, in a process of its own, where torch is installed.

`python -m abnn_serve.doctor.training DEVICE` prints the reports as JSON.
"""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from abnn_serve.codec import from_json, to_json
from abnn_serve.doctor.report import TrainingReport
from abnn_serve.errors import AbnnError, DeviceError, one_line
from abnn_serve.spec import InputSpec

STEPS = 50
TOLERANCE = 1e-3  # between float32 logits on two devices, as between a bundle's and its golden logits
_RECIPES = ("standard", "abnn")
_BATCH, _VALIDATION, _CLASSES, _SIZE = 16, 64, 4, 32
_REMEDY = "check nvidia-smi and torch's CUDA version, or train with --device cpu"
_LIMIT = 300  # seconds


def train_in_process(device: str) -> tuple[TrainingReport, ...]:
    """As `train_recipes`, in a new process; also reports a crash. Empty where this copy cannot train.

    Args:
        device: `cpu`, `cuda`, or `auto` for CUDA if torch finds it.
    """
    if any(importlib.util.find_spec(name) is None for name in ("abnn_serve.lab", "torch", "timm", "torchvision")):
        return ()
    command = [sys.executable, "-m", "abnn_serve.doctor.training", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)  # noqa: S603
    except subprocess.TimeoutExpired:
        return (TrainingReport(recipe=_RECIPES[0], device=device, error=f"no result within {_LIMIT} s; {_REMEDY}"),)
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        values = json.loads(lines[-1])
        return tuple(from_json(TrainingReport, value, "the training process", DeviceError) for value in values)
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    error = f"the process ended with status {done.returncode}: {last}; {_REMEDY}"
    return (TrainingReport(recipe=_RECIPES[0], device=device, error=error),)


def train_recipes(device: str) -> list[TrainingReport]:
    """Train a plain network and then an adaptive one with the plain one as its substitute; stops at a failure."""
    reports = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = _write_images(folder / "data.parquet", STEPS * _BATCH)
        val = _write_images(folder / "val.parquet", _VALIDATION)
        for recipe in _RECIPES:
            try:
                reports.append(_train(recipe, device, folder, str(data), str(val)))
            except AbnnError as error:
                reports.append(TrainingReport(recipe=recipe, device=device, error=one_line(error)))
            except Exception as error:  # torch's exceptions have no common base class
                reports.append(TrainingReport(recipe=recipe, device=device, error=f"{one_line(error)}; {_REMEDY}"))
            if reports[-1].error:
                break
    return reports


def _train(name: str, device: str, folder: Path, data: str, val: str) -> TrainingReport:
    from abnn_serve.lab.device import pick_device
    from abnn_serve.lab.training.recipes import RECIPES
    from abnn_serve.lab.training.request import TrainRequest
    from abnn_serve.lab.training.train import train

    place = pick_device(device)
    request = TrainRequest(
        recipe=replace(RECIPES[name], epochs=1, batch_size=_BATCH),
        target="resnet8s-w4",
        substitute=str(folder / _RECIPES[0]) if RECIPES[name].adaptive else None,
        data=data,
        val=val,
        input=InputSpec(height=_SIZE, width=_SIZE),
    )
    speeds: list[float] = []
    run = train(request, folder / name, device=place, on_progress=lambda p: speeds.append(p.images_per_second))
    report = TrainingReport(recipe=name, device=place, steps=STEPS, images_per_second=round(speeds[-1], 1))
    if place == "cpu":
        return report
    return judge(replace(report, cpu_error=_difference(run.network(), place)))


def judge(report: TrainingReport) -> TrainingReport:
    """The report with its `error`, if the logits are out of bounds."""
    if report.cpu_error is None or report.cpu_error <= TOLERANCE:
        return report
    text = f"the trained network's logits differ from the CPU's by {report.cpu_error:.2g}, {TOLERANCE:g} is allowed"
    return replace(report, error=f"{text}; {_REMEDY}")


def _difference(network: object, device: str) -> float:
    """Largest difference between float32 logits on `device` and on the CPU."""
    import torch

    from abnn_serve.lab.device import exact_fp32

    assert isinstance(network, torch.nn.Module)  # noqa: S101
    images = torch.rand(512, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), exact_fp32():
        expected = network.cpu().eval()(images)
        return float((network.to(device)(images.to(device)).cpu() - expected).abs().max())


def _write_images(path: Path, count: int) -> Path:
    """Noise with a brightness that tells its class, as PNG files in a Parquet file."""
    rng = np.random.default_rng(count)
    labels = rng.integers(0, _CLASSES, count)
    rows = []
    for label in labels.tolist():
        buffer = io.BytesIO()
        pixels = rng.integers(0, 128, (_SIZE, _SIZE, 3)) + 40 * label
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="png")
        rows.append(buffer.getvalue())
    pq.write_table(pa.table({"image": rows, "label": labels}), path)
    return path


if __name__ == "__main__":
    print(json.dumps([to_json(report) for report in train_recipes(sys.argv[1])]), flush=True)
