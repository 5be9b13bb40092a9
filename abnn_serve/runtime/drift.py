"""Drift: distance of a sample's feature statistics in the target network from those recorded on clean data.

A bundle may contain `drift.onnx`: nodes that read feature maps of `model.onnx` by name, the recorded means and
deviations, and an output `drift`. Concatenated protobuf messages merge, so the bytes of both files together are a graph
with both outputs, and serving without drift costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import BundleIntegrityError, ConfigError, DeviceError, one_line
from abnn_serve.runtime.cuda import CUDA, CudaEngine
from abnn_serve.runtime.engine import OnnxEngine
from abnn_serve.runtime.session import GOLDEN_TOLERANCE, Session

DRIFT_FILE = "drift.onnx"


class DriftMeter:
    """Computes logits and drift.

    Raises:
        ConfigError: the bundle has no recorded statistics, or the session is not fp32.
        BundleIntegrityError: `drift.onnx` does not match `model.onnx`.
        DeviceError: the session's device cannot run the graph.
    """

    def __init__(self, session: Session) -> None:
        if session.precision != "fp32":
            raise ConfigError(
                f"drift is not available for {session.precision}; set ABNN_PRECISION=fp32, or omit --drift"
            )
        self._open(session.bundle, session.max_batch, lambda model: _open_engine(session, model))

    def _open(self, bundle: Bundle, max_batch: int, open_engine: Callable[[bytes], OnnxEngine | CudaEngine]) -> None:
        if DRIFT_FILE not in bundle.manifest.files:
            raise ConfigError(
                f"{bundle.path} has no {DRIFT_FILE}, as it has no adaptive layers or was exported by an old version; "
                "export it again, or omit --drift"
            )
        model = bundle.read("model.onnx") + bundle.read(DRIFT_FILE)
        self._max_batch = max_batch
        try:
            self._engine = open_engine(model)
            self._check(bundle)
        except DeviceError:
            raise
        except Exception as error:  # ORT's exceptions have no common base class
            raise BundleIntegrityError(
                f"{bundle.path / DRIFT_FILE} does not match model.onnx: {one_line(error)}; export the bundle again"
            ) from error

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute the logits and drift of samples.

        Args:
            images: uint8 (N, H, W, 3) or (N, T, H, W, 3), N >= 1.

        Returns:
            logits, float32 (N, classes), and drift, float32 (N, layers): the root mean square, over a layer's channel
            means and deviations, of their distance from the recorded mean in recorded standard deviations. It is about
            1 for clean samples.
        """
        batches = batch_slices(len(images), self._max_batch)
        parts = [self._engine.run_all(np.ascontiguousarray(images[batch])) for batch in batches]
        logits, drift = (np.concatenate(column) for column in zip(*parts, strict=True))
        return logits, drift

    def _check(self, bundle: Bundle) -> None:
        if (outputs := [port.name for port in self._engine.outputs]) != ["logits", "drift"]:
            raise ValueError(f"outputs are {', '.join(outputs)}, expected logits, drift")
        logits, drift = self.run(bundle.golden.inputs)
        error = float(np.abs(logits - bundle.golden.logits).max())
        if not error <= GOLDEN_TOLERANCE or not np.isfinite(drift).all():
            raise ValueError(
                f"logits differ from the golden logits by {error:.2g}, the tolerance is {GOLDEN_TOLERANCE:g}"
            )


class CpuDriftMeter(DriftMeter):
    """A drift meter that runs one sample at a time in one thread on the CPU, whatever device serves the bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._open(bundle, 1, lambda model: OnnxEngine(model, 1, ["CPUExecutionProvider"]))


def _open_engine(session: Session, model: bytes) -> OnnxEngine | CudaEngine:
    """Open `model` on the session's device, with the same arithmetic."""
    first = session.providers[0]
    on_cuda = (first if isinstance(first, str) else first[0]) == CUDA
    return CudaEngine(model, session.gpu) if on_cuda else OnnxEngine(model, session.threads, session.providers)
