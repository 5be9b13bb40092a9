"""The fused graph in 8-bit integers, for the CPU."""

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
        self._batches = (images[batch] for batch in batch_slices(len(images), _BATCH))

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
