"""Drift: distance of a sample's feature statistics in the target network from those recorded on clean data.

A bundle may contain `drift.onnx`: nodes that read feature maps of `model.onnx` by name, the recorded means and
deviations, and an output `drift`. Concatenated protobuf messages merge, so the bytes of both files together are a graph
with both outputs, and serving without drift costs nothing extra.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import BundleIntegrityError, ConfigError, one_line
from abnn_serve.runtime.engine import gpu_lock, open_graph
from abnn_serve.runtime.session import GOLDEN_TOLERANCE, Session

DRIFT_FILE = "drift.onnx"


class DriftMeter:
    """Computes logits and drift.

    Raises:
        ConfigError: the bundle has no recorded statistics, or the session is not fp32.
        BundleIntegrityError: `drift.onnx` does not match `model.onnx`.
    """

    def __init__(self, session: Session) -> None:
        bundle = session.bundle
        if DRIFT_FILE not in bundle.manifest.files:
            raise ConfigError(
                f"{bundle.path} has no {DRIFT_FILE}, as it has no adaptive layers or was exported by an old version; "
                "export it again, or omit --drift"
            )
        if session.precision != "fp32":
            raise ConfigError(
                f"drift is not available for {session.precision}; set ABNN_PRECISION=fp32, or omit --drift"
            )
        model = bundle.read("model.onnx") + bundle.read(DRIFT_FILE)
        self._input, self._max_batch = bundle.manifest.input.modality, session.max_batch
        self._providers = session.providers
        try:
            with gpu_lock(self._providers):
                self._session = open_graph(model, session.threads, self._providers)
            self._check(bundle)
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
        parts = []
        for batch in batch_slices(len(images), self._max_batch):
            with gpu_lock(self._providers):
                pixels = np.ascontiguousarray(images[batch])
                parts.append(self._session.run(["logits", "drift"], {self._input: pixels}))
        logits, drift = (np.concatenate(column) for column in zip(*parts, strict=True))
        return logits, drift

    def _check(self, bundle: Bundle) -> None:
        logits, drift = self.run(bundle.golden.inputs)
        error = float(np.abs(logits - bundle.golden.logits).max())
        if not error <= GOLDEN_TOLERANCE or not np.isfinite(drift).all():
            raise ValueError(
                f"logits differ from the golden logits by {error:.2g}, the tolerance is {GOLDEN_TOLERANCE:g}"
            )
