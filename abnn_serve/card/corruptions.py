"""Accuracy under common corruptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abnn_serve.card.accuracy import Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionResult:
    """Accuracy under one corruption at one severity, 1 to 5; `twin` is the undefended twin's, None without one."""

    corruption: str
    severity: int
    accuracy: Accuracy
    twin: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruptions:
    """Accuracy under the corruptions of Hendrycks & Dietterich (2019).

    Attributes:
        constants: the data set whose constants were used, `CIFAR-10-C` or `ImageNet-C`.
        seed: random seed of the corruptions.
        results: one for each corruption and severity.
        mean: mean accuracy over corruptions and severities, in [0, 1].
        interval: 95% interval of `mean`, from its variation over images.
        mce: mean over corruptions of this model's error, summed over severities, divided by the twin's; 1 equals the
            twin, less is better; None without a twin.
    """

    constants: Literal["CIFAR-10-C", "ImageNet-C"]
    seed: int
    results: tuple[CorruptionResult, ...]
    mean: float
    interval: tuple[float, float]
    mce: float | None = None
