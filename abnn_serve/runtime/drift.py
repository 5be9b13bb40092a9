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
from abnn_serve.errors import BundleIntegrityError, ConfigError, one_line
from abnn_serve.runtime.engine import open_graph, turn
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
        self._input, self._max_batch = bundle.manifest.input.modality, session.max_batch
        self._providers = session.providers
        try:
            with turn(self._providers):
                self._session = open_graph(model, session.threads, self._providers)
            self._check(bundle)
        except Exception as error:  # ORT's exception classes share no base of their own
            raise BundleIntegrityError(
                f"{bundle.path / DRIFT_FILE} does not fit model.onnx: {one_line(error)}; export it again"
            ) from error

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 (N, H, W, 3), or clips, N at least 1, to logits (N, classes) and drift (N, layers).

        A layer's drift is the root mean square, over its channels' means and deviations, of how many recorded standard
        deviations they are from the recorded mean: about 1 for clean samples.
        """
        parts = []
        for batch in batch_slices(len(images), self._max_batch):
            with turn(self._providers):
                pixels = np.ascontiguousarray(images[batch])
                parts.append(self._session.run(["logits", "drift"], {self._input: pixels}))
        logits, drift = (np.concatenate(column) for column in zip(*parts, strict=True))
        return logits, drift

    def _check(self, bundle: Bundle) -> None:
        logits, drift = self.run(bundle.golden.inputs)
        error = float(np.abs(logits - bundle.golden.logits).max())
        if not error <= GOLDEN_TOLERANCE or not np.isfinite(drift).all():
            raise ValueError(f"golden logits differ by {error:.2g}, {GOLDEN_TOLERANCE:g} is allowed")
