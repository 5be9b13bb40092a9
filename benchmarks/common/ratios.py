"""Bars on ratios of median times, where several engines can provide each side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.common.report import Bar

Cases = tuple[str, ...]  # their medians are added


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of summed medians and its limit.

    `numerators` and `denominators` each list alternatives, such as one sum for each engine. Of those whose cases were
    all measured, the fastest counts.
    """

    name: str
    setting: str
    numerators: tuple[Cases, ...]
    denominators: tuple[Cases, ...]
    limit: float
    better: Literal["smaller", "larger"] = "smaller"

    def bar(self, medians: Mapping[str, Mapping[str, float]]) -> Bar:
        """The bar for median seconds by setting and case."""
        cases = medians.get(self.setting, {})
        numerator, denominator = fastest(self.numerators, cases), fastest(self.denominators, cases)
        value = numerator / denominator if numerator and denominator else None
        return Bar(name=self.name, setting=self.setting, value=value, limit=self.limit, better=self.better)


def fastest(alternatives: Iterable[Cases], medians: Mapping[str, float]) -> float | None:
    """The smallest sum among the alternatives whose cases were all measured; None if there is no such alternative."""
    sums = [sum(medians[name] for name in names) for names in alternatives if set(names) <= medians.keys()]
    return min(sums, default=None)
