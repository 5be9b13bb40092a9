"""Catastrophic overfitting: one-step adversarial training can lose all robustness at once (Wong et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHARE = 0.5  # of the best epoch's robust accuracy
_LEAST = 0.1  # and at least this much of an absolute fall: four standard errors of 256 images at 20%


def find_collapse(history: Sequence[dict[str, Any]], accuracy: float) -> float | None:
    """The best robust accuracy so far, in [0, 1], if `accuracy` has collapsed from it; else None.

    Args:
        history: records of the finished epochs, with `val_pgd_accuracy` where PGD was run.
        accuracy: PGD accuracy of the epoch that just ended.
    """
    best: float = max((entry.get("val_pgd_accuracy", 0.0) for entry in history), default=0.0)
    return best if accuracy < _SHARE * best and best - accuracy > _LEAST else None
