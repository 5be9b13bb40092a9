"""Variants of the fp32 graph in other precisions: converts them and measures them on every engine."""

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
from abnn_serve.runtime.open_vino import has_openvino
from abnn_serve.runtime.providers import open_engine
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import Precision

ALLOWED_LOSS = 0.005
_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The reference that variants are compared with.

    Attributes:
        data: for clean accuracy.
        clean: accuracy of the fp32 graph on `data`.
        images: for parity, uint8 (n, [T,] H, W, 3).
        logits: torch's logits for `images`, float32 (n, classes).
    """

    data: ImageData
    clean: Accuracy
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]


def make_variant(model: bytes, precision: Precision, calibration: ImageData | None) -> bytes:
    """Convert the fp32 graph `model` to another precision; bf16 is converted by OpenVINO on load, so it is unchanged.

    Raises:
        ExportError: int8 without calibration images, or a graph that cannot be quantised.
    """
    if precision == "int8":
        if calibration is None:
            raise ExportError("int8 needs calibration images")
        return to_int8(model, calibration.images)
    return to_fp16(model) if precision == "fp16" else model


def measure_variant(
    model: bytes, precision: Precision, calibration: str, reference: Reference, *, allow_loss: bool
) -> Iterator[Variant]:
    """Measure a variant on each engine of this machine that supports it.

    Args:
        model: serialised graph of the variant.
        precision: of the variant.
        calibration: name of the calibration data, for the card.
        reference: what to compare it with.
        allow_loss: accept any loss of clean accuracy.

    Raises:
        ExportError: the variant loses more than ALLOWED_LOSS of clean accuracy and `allow_loss` is off.
        DeviceError: no engine of this machine supports the precision.
    """
    for device in _devices(precision):
        engine = open_engine(model, device, usable_cores(), precision)
        logits, expected = _logits(engine, reference.images), reference.logits
        scores, labels = reference.data.by_video(_logits(engine, reference.data.images))
        variant = Variant(
            precision=precision,
            provider="+".join(engine.placement),
            calibration=calibration if precision == "int8" else "",
            max_error=float(np.abs(logits - expected).max()),
            same_class=int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum()),
            images=len(expected),
            clean=Accuracy.of(scores.argmax(axis=1) == labels),
        )
        if not allow_loss:
            _check_loss(variant, reference.clean)
        yield variant


def _devices(precision: Precision) -> list[Device]:
    if precision == "bf16":
        return ["openvino"]
    if precision == "fp16":
        return ["auto" if has_cuda_device() else "cpu"]  # auto: the CUDA libraries may be missing
    return ["cpu", "openvino"] if has_openvino() else ["cpu"]


def _logits(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    size = min(_BATCH, max_batch(engine.inputs[0].frames))
    return np.concatenate([engine.run(images[batch]) for batch in batch_slices(len(images), size)])


def _check_loss(variant: Variant, clean: Accuracy) -> None:
    loss = clean.value - variant.clean.value
    if loss > ALLOWED_LOSS:
        raise ExportError(
            f"{variant.precision} on {variant.provider} has {variant.clean.value:.2%} clean accuracy, "
            f"{100 * loss:.2f} points below fp32's {clean.value:.2%} (allowed: {100 * ALLOWED_LOSS:.1f}); use other "
            "calibration images, or add --allow-loss; nothing was written"
        )
