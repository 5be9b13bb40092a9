"""Tests of significance on counts: paired and independent shares, ordered bins, and many tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_EXACT = 10_000  # larger counts use the normal approximation


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided binomial test that a changed sample is as likely gained as lost (McNemar 1947)."""
    changed = gained + lost
    if changed > _EXACT:
        return _two_sided((abs(gained - lost) - 1) / math.sqrt(changed))
    tail = sum(math.exp(_log_comb(changed, k) - changed * math.log(2)) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail)


def two_shares(first: int, of_first: int, second: int, of_second: int) -> float:
    """Two-sided p-value that two independent shares, `first` of `of_first` and `second` of `of_second`, are equal.

    Fisher's exact test; above 10,000 counts the normal approximation.
    """
    total, n = first + second, of_first + of_second
    if not of_first or not of_second or total in {0, n}:
        return 1.0
    if total > _EXACT:
        share = total / n
        error = math.sqrt(share * (1 - share) * (1 / of_first + 1 / of_second))
        return _two_sided((first / of_first - second / of_second) / error)
    counts = range(max(0, total - of_second), min(total, of_first) + 1)
    logs = [_log_comb(of_first, k) + _log_comb(of_second, total - k) for k in counts]
    observed = logs[first - counts[0]] + 1e-7  # a tolerance for rounding
    return min(1.0, sum(math.exp(value - _log_comb(n, total)) for value in logs if value <= observed))


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value that two samples have one distribution, from their counts in the same ordered bins.

    Wilcoxon's rank sum with the correction for ties, in the normal approximation.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    both, n, m = a + b, a.sum(), b.sum()
    ranks = np.cumsum(both) - (both - 1) / 2
    total = n + m
    if not n or not m or total < 2:
        return 1.0
    variance = n * m / 12 * (total + 1 - (both**3 - both).sum() / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    return _two_sided(float(((a * ranks).sum() - n * (total + 1) / 2) / math.sqrt(variance)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): all below 0.05 hold together with 95% confidence."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
