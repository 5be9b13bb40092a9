"""How far a sample's statistics in the target are from those of clean data: a sign of drift, and of an attack.

A bundle may hold `drift.onnx`: nodes that read feature maps of `model.onnx` by name, the recorded means and deviations,
and an output `drift`. Serialised protobuf messages merge when their bytes are joined, so the two files, one after the
other, are the graph with both outputs; `model.onnx` stays what it is, and costs what it does, where nobody asks.
"""

from __future__ import annotations

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
    """The graph of a session with its second output.

    Raises:
        ConfigError: the bundle recorded no statistics, or the session is of a variant.
        BundleIntegrityError: the two files do not fit each other.
    """

    def __init__(self, session: Session) -> None:
        bundle = session.bundle
        if DRIFT_FILE not in bundle.manifest.files:
            raise ConfigError(
                f"{bundle.path} has no {DRIFT_FILE}: it was exported before statistics of clean data were recorded, or "
                "is not adaptive; export it again, or leave --drift out"
            )
        if session.precision != "fp32":
            raise ConfigError(f"drift is measured on the fp32 graph, not on {session.precision}; leave --drift out")
        model = bundle.read("model.onnx") + bundle.read(DRIFT_FILE)
        self._max_batch = session.max_batch
        try:
            self._engine = _open_beside(session, model)
            self._check(bundle)
        except DeviceError:
            raise
        except Exception as error:  # ORT's exception classes share no base of their own
            raise BundleIntegrityError(
                f"{bundle.path / DRIFT_FILE} does not fit model.onnx: {one_line(error)}; export it again"
            ) from error

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 (N, H, W, 3), or clips, N at least 1, to logits (N, classes) and drift (N, layers).

        A layer's drift is the root mean square, over its channels' means and deviations, of how many recorded standard
        deviations they are from the recorded mean: about 1 for clean samples.
        """
        batches = batch_slices(len(images), self._max_batch)
        parts = [self._engine.run_all(np.ascontiguousarray(images[batch])) for batch in batches]
        logits, drift = (np.concatenate(column) for column in zip(*parts, strict=True))
        return logits, drift

    def _check(self, bundle: Bundle) -> None:
        logits, drift = self.run(bundle.golden.inputs)
        error = float(np.abs(logits - bundle.golden.logits).max())
        if not error <= GOLDEN_TOLERANCE or not np.isfinite(drift).all():
            raise ValueError(f"golden logits differ by {error:.2g}, {GOLDEN_TOLERANCE:g} is allowed")


def _open_beside(session: Session, model: bytes) -> OnnxEngine | CudaEngine:
    """An engine for `model` where the session's runs, with the same arithmetic."""
    first = session.providers[0]
    on_cuda = (first if isinstance(first, str) else first[0]) == CUDA
    return CudaEngine(model) if on_cuda else OnnxEngine(model, session.threads, session.providers)
