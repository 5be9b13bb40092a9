"""Parity: compares the exported graph, in the session that serves it, with torch on real images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from abnn_serve.arrays import batch_slices
from abnn_serve.bundle.manifest import Parity
from abnn_serve.errors import ParityError
from abnn_serve.lab.abnn.network import torch_logits
from abnn_serve.runtime.session import Session

TOLERANCE = 1e-4
BATCH_SIZES = (1, 7)


def check_parity(
    served: nn.Module, session: Session, images: NDArray[np.uint8], tolerance: float = TOLERANCE
) -> Parity:
    """Compare the logits at every batch size of BATCH_SIZES.

    Args:
        served: torch network from uint8 pixels to logits.
        session: of the exported graph.
        images: uint8 (n, [T,] H, W, 3).
        tolerance: largest allowed difference between logits.

    Raises:
        ParityError: logits differ by more than `tolerance`, or a predicted class differs.
    """
    expected = torch_logits(served, images)
    worst = 0.0
    for size in BATCH_SIZES:
        logits = _in_batches(session.run, images, size)
        error = float(np.abs(logits - expected).max())
        if not error <= tolerance:
            raise ParityError(
                f"the exported logits differ from torch's by {error:.2g} at batch size {size}, "
                f"{tolerance:g} is allowed; nothing was written"
            )
        if differing := int((logits.argmax(axis=1) != expected.argmax(axis=1)).sum()):
            raise ParityError(
                f"the exported graph and torch predict different classes for {differing} of {len(images)} images "
                f"at batch size {size}; nothing was written"
            )
        worst = max(worst, error)
    return Parity(tolerance=tolerance, max_error=worst, images=len(images), batch_sizes=BATCH_SIZES)


def _in_batches(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8], size: int
) -> NDArray[np.float32]:
    return np.concatenate([run(images[batch]) for batch in batch_slices(len(images), size)])
