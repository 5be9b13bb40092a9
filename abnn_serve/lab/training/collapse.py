"""Catastrophic overfitting: one-step adversarial training can lose all robustness at once (Wong et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHARE = 0.5  # of the best epoch's robust accuracy
_LEAST = 0.1  # and at least this much of an absolute fall: four standard errors of 256 images at 20%


def find_collapse(history: Sequence[dict[str, Any]], entry: dict[str, Any]) -> float | None:
    """The best robust accuracy so far, in [0, 1], if it has collapsed in the epoch that just ended; else None.

    Args:
        history: records of the epochs before, with `val_pgd_accuracy` where PGD was run.
        entry: record of that epoch.
    """
    best: float = max((past.get("val_pgd_accuracy", 0.0) for past in history), default=0.0)
    accuracy: float = entry.get("val_pgd_accuracy", 1.0)
    return best if accuracy < _SHARE * best and best - accuracy > _LEAST else None
