"""The fused graph in 8-bit integers, and what that costs in accuracy."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import onnxruntime.quantization as ort_quantization
from numpy.typing import NDArray

from abnn_serve.bundle.store import Bundle
from abnn_serve.card import Accuracy, Variant
from abnn_serve.errors import ExportError, one_line
from abnn_serve.hardware import usable_cores
from abnn_serve.lab.data import ImageData
from abnn_serve.lab.outcomes import Evaluation, count
from abnn_serve.runtime.session import Session, open_graph

CALIBRATION_IMAGES = 256
ALLOWED_LOSS = 0.005
_BATCH = 32


def to_int8(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """The graph with its convolutions in 8-bit integers, QDQ form; statistics, maps and adaptive layers stay float32.

    Weights are signed and scaled by output channel, activations unsigned with one scale each for all samples, so that
    an answer still depends on nothing but its own sample.

    Args:
        model: serialised, as `export_graph` gives it.
        images: uint8 (N, H, W, 3), whose activations set the ranges.

    Raises:
        ExportError: ONNX Runtime cannot quantise the graph.
    """
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        before, after = Path(scratch, "before.onnx"), Path(scratch, "after.onnx")
        before.write_bytes(model)
        try:
            ort_quantization.quantize_static(
                before,
                after,
                _Images(images),
                quant_format=ort_quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=ort_quantization.QuantType.QUInt8,
                weight_type=ort_quantization.QuantType.QInt8,
            )
        except Exception as error:  # its many parts raise classes of their own
            raise ExportError(f"ONNX Runtime cannot bring this graph to int8: {one_line(error)}") from error
        return after.read_bytes()


class _Images(ort_quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of calibration images, once."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(images[i : i + _BATCH] for i in range(0, len(images), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice about preprocessing, which the graph passes have done, from the user."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)


def measure_int8(
    model: bytes, calibration: str, data: ImageData, images: NDArray[np.uint8], logits: NDArray[np.float32]
) -> Variant:
    """What the int8 graph is worth on this CPU.

    Args:
        model: from `to_int8`.
        calibration: the source of its ranges, for the card.
        data: for clean accuracy.
        images: inputs, uint8 (n, H, W, 3).
        logits: what torch gives for them, float32 (n, classes).
    """
    session = open_graph(model, usable_cores())
    found = _logits(session, images)
    return Variant(
        precision="int8",
        calibration=calibration,
        max_error=float(np.abs(found - logits).max()),
        same_class=int((found.argmax(axis=1) == logits.argmax(axis=1)).sum()),
        images=len(images),
        clean=count(_logits(session, data.images).argmax(axis=1) == data.labels),
    )


def _logits(session: ort.InferenceSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate(
        [session.run(None, {"image": images[i : i + _BATCH]})[0] for i in range(0, len(images), _BATCH)]
    )


def check_loss(variant: Variant, clean: Accuracy, *, allow: bool) -> None:
    """ExportError where a variant loses more than ALLOWED_LOSS of clean accuracy and that is not allowed."""
    loss = clean.value - variant.clean.value
    if loss > ALLOWED_LOSS and not allow:
        raise ExportError(
            f"{variant.precision} has {variant.clean.value:.2%} clean accuracy, {100 * loss:.2f} points below fp32's "
            f"{clean.value:.2%}, {100 * ALLOWED_LOSS:.1f} are allowed; calibrate on other images, or add --allow-loss; "
            "nothing was written"
        )


def with_robust_accuracy(bundle: Bundle, evaluation: Evaluation) -> tuple[Variant, ...]:
    """The card's variants, judged on the white-box images of `evaluation`, rounded to uint8."""
    trials = [o for o in evaluation.outcomes if o.trial.threat_model == "whitebox" and o.trial.attack.budget != "patch"]
    if not trials:
        return bundle.card.variants
    judged = []
    for variant in bundle.card.variants:
        session = Session(bundle, "cpu", precision=variant.precision)
        right = np.ones(len(evaluation.data), bool)
        for outcome in trials:
            pixels = np.rint(outcome.images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
            right &= session.run(pixels).argmax(axis=1) == evaluation.data.labels
        judged.append(replace(variant, robust=count(right)))
    return tuple(judged)
