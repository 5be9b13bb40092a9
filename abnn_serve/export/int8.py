"""Quantises the fused graph to 8-bit integers, for the CPU."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime.quantization as ort_quantization
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import ExportError, one_line

CALIBRATION_IMAGES = 256
_BATCH = 32


def to_int8(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """Quantise the convolutions, in QDQ form; statistics, maps and adaptive layers stay float32.

    Weights are signed, with one scale per output channel. Activations are unsigned, with fixed scales, so a sample's
    logits still depend on that sample alone.

    Args:
        model: serialised graph, from `export_graph`.
        images: calibration images, uint8 (N, H, W, 3).

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
        except Exception as error:  # the quantiser has no common base exception
            raise ExportError(f"ONNX Runtime cannot quantise this graph to int8: {one_line(error)}") from error
        return after.read_bytes()


class _Images(ort_quantization.CalibrationDataReader):  # type: ignore[misc]
    """Yields the calibration images once, in batches."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = (images[batch] for batch in batch_slices(len(images), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the quantiser's advice to preprocess the model, which the graph passes have done."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
