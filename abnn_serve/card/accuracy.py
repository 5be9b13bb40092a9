"""A share of samples and its interval."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abnn_serve.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Z95 = 1.959964  # of the normal distribution, for 95% intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A share of `n` samples, of which `correct` are classified correctly."""

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n == 0:
            raise ConfigError(f"Accuracy is {self.correct} of {self.n}, expected 0 <= correct <= n and n > 0")

    @classmethod
    def of(cls, is_correct: Collection[bool] | NDArray[np.bool_]) -> Accuracy:
        """The accuracy of flags, bool (N,)."""
        return cls(correct=int(sum(map(bool, is_correct))), n=len(is_correct))

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share, in [0, 1] (Wilson 1927)."""
        p, n, z = self.value, self.n, Z95
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} of {self.n:,} (95%: {low:.1%} to {high:.1%})"
