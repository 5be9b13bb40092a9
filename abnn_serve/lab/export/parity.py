"""Parity: the exported file, in the session that serves it, against torch on real images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from abnn_serve.bundle.manifest import Parity
from abnn_serve.errors import ParityError
from abnn_serve.runtime.session import Session

TOLERANCE = 1e-4
BATCH_SIZES = (1, 7)


def torch_logits(served: nn.Module, images: NDArray[np.uint8], batch_size: int = 100) -> NDArray[np.float32]:
    """uint8 (N, [T,] H, W, 3) to the logits that torch computes, float32 (N, classes)."""
    batch_size = max(1, batch_size // (images.shape[1] if images.ndim == 5 else 1))
    with torch.inference_mode():
        parts = [
            served(torch.from_numpy(images[i : i + batch_size])).numpy() for i in range(0, len(images), batch_size)
        ]
    return np.concatenate(parts)


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
    return np.concatenate([run(images[start : start + size]) for start in range(0, len(images), size)])
