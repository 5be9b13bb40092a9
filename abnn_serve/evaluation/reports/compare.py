"""Differences between cards, paired where they were measured on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abnn_serve.card import Accuracy
from abnn_serve.card.accuracy import Z95
from abnn_serve.evaluation.reports.source import CardSource
from abnn_serve.evaluation.reports.words import figures
from abnn_serve.significance import mcnemar


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A figure of two cards.

    Attributes:
        name: of the figure, `clean` or a threat model.
        first, second: the accuracies.
        value: second minus first, in [-1, 1].
        interval: 95% interval of `value`.
        p_value: exact McNemar test, two-sided; None if the images are not the same.
    """

    name: str
    first: Accuracy
    second: Accuracy
    value: float
    interval: tuple[float, float]
    p_value: float | None

    @property
    def is_clear(self) -> bool:
        """The interval excludes 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


def compare(first: CardSource, second: CardSource) -> list[Difference]:
    """The figures that both cards have, in the order of the first."""
    kept = first.flags(), second.flags()
    paired = kept[0][1].keys() & kept[1][1].keys() if kept[0] and kept[1] and kept[0][0] == kept[1][0] else set()
    own, other = figures(first.card), figures(second.card)
    differences = []
    for name in (name for name in own if name in other):
        if name in paired and kept[0] and kept[1]:
            differences.append(_paired(name, kept[0][1][name], kept[1][1][name]))
        else:
            differences.append(_unpaired(name, own[name], other[name]))
    return differences


def _paired(name: str, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """The difference of paired proportions with the interval of Bonett & Price (2012)."""
    n, gained, lost = len(first), int((~first & second).sum()), int((first & ~second).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Difference(
        name=name,
        first=Accuracy.of(first),
        second=Accuracy.of(second),
        value=(gained - lost) / n,
        interval=(max(-1.0, up - down - half), min(1.0, up - down + half)),
        p_value=mcnemar(gained, lost),
    )


def _unpaired(name: str, first: Accuracy, second: Accuracy) -> Difference:
    """The difference of independent proportions with the interval of Newcombe (1998)."""
    (low_a, high_a), (low_b, high_b) = first.interval, second.interval
    a, b = first.value, second.value
    value = b - a
    low = value - math.hypot(b - low_b, high_a - a)
    high = value + math.hypot(high_b - b, a - low_a)
    return Difference(
        name=name, first=first, second=second, value=value, interval=(max(-1.0, low), min(1.0, high)), p_value=None
    )
