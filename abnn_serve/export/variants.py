"""The bundle's other precisions: made from the fp32 graph, and measured where they will run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.card import Accuracy, Variant
from abnn_serve.errors import ExportError
from abnn_serve.export.fp16 import to_fp16
from abnn_serve.export.int8 import to_int8
from abnn_serve.hardware import has_cuda_device, usable_cores
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.runtime.engine import Engine, max_batch
from abnn_serve.runtime.open_vino import openvino_is_there
from abnn_serve.runtime.providers import open_engine
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision

ALLOWED_LOSS = 0.005
_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What a variant is measured against.

    Attributes:
        data: for clean accuracy.
        clean: of the fp32 graph, on `data`.
        images: uint8 (n, [T,] H, W, 3), for parity.
        logits: what torch gives for them, float32 (n, classes).
    """

    data: ImageData
    clean: Accuracy
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]


def make_variant(model: bytes, precision: Precision, calibration: ImageData | None) -> bytes:
    """The fp32 graph `model` in another precision; bf16 is its own bytes.

    Raises:
        ExportError: int8 without images to calibrate on, or a graph that cannot be quantised.
    """
    if precision == "int8":
        if calibration is None:
            raise ExportError("int8 needs images that set its ranges; give calibration data")
        return to_int8(model, calibration.images)
    return to_fp16(model) if precision == "fp16" else model


def measure_variant(
    model: bytes, precision: Precision, calibration: str, yardstick: Yardstick, *, allow_loss: bool
) -> Iterator[Variant]:
    """What a variant is worth on each engine of this machine that serves it.

    Raises:
        ExportError: it loses more than ALLOWED_LOSS of clean accuracy, and that is not allowed.
        DeviceError: bf16, and no engine here has it.
    """
    for device in _devices(precision):
        engine = open_engine(model, device, usable_cores(), precision)
        found, expected = _logits(engine, yardstick.images), yardstick.logits
        scores, labels = yardstick.data.by_video(_logits(engine, yardstick.data.images))
        variant = Variant(
            precision=precision,
            provider="+".join(engine.placement),
            calibration=calibration if precision == "int8" else "",
            max_error=float(np.abs(found - expected).max()),
            same_class=int((found.argmax(axis=1) == expected.argmax(axis=1)).sum()),
            images=len(expected),
            clean=Accuracy.of(scores.argmax(axis=1) == labels),
        )
        if not allow_loss:
            _check_loss(variant, yardstick.clean)
        yield variant


def _devices(precision: Precision) -> list[Device]:
    if precision == "bf16":
        return ["openvino"]
    if precision == "fp16":
        return ["auto" if has_cuda_device() else "cpu"]  # its libraries may still be missing
    return ["cpu", "openvino"] if openvino_is_there() else ["cpu"]


def _logits(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    size = min(_BATCH, max_batch(engine.inputs[0].frames))
    return np.concatenate([engine.run(images[batch]) for batch in batch_slices(len(images), size)])


def _check_loss(variant: Variant, clean: Accuracy) -> None:
    loss = clean.value - variant.clean.value
    if loss > ALLOWED_LOSS:
        raise ExportError(
            f"{variant.precision} on {variant.provider} has {variant.clean.value:.2%} clean accuracy, "
            f"{100 * loss:.2f} points below fp32's {clean.value:.2%}, {100 * ALLOWED_LOSS:.1f} are allowed; calibrate "
            "on other images, or add --allow-loss; nothing was written"
        )
