"""Parity: the exported file, in the session that serves it, against torch on real images."""

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
    """Compare logits at every batch size of BATCH_SIZES.

    Raises:
        ParityError: a logit differs by more than `tolerance`, or an argmax differs.
    """
    expected = torch_logits(served, images)
    worst = 0.0
    for size in BATCH_SIZES:
        found = _in_batches(session.run, images, size)
        error = float(np.abs(found - expected).max())
        if not error <= tolerance:
            raise ParityError(
                f"at batch {size} the exported logits differ from torch's by {error:.2g}, {tolerance:g} is allowed; "
                "nothing was written"
            )
        if differing := int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()):
            raise ParityError(
                f"at batch {size} the exported graph decides {differing} of {len(images)} images otherwise than torch; "
                "nothing was written"
            )
        worst = max(worst, error)
    return Parity(tolerance=tolerance, max_error=worst, images=len(images), batch_sizes=BATCH_SIZES)


def _in_batches(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8], size: int
) -> NDArray[np.float32]:
    return np.concatenate([run(images[batch]) for batch in batch_slices(len(images), size)])
