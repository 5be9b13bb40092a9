"""Least-squares lines through measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Milliseconds measured at each abscissa, and the line `intercept + slope * at` fitted to them."""

    at: list[float]
    milliseconds: list[float]
    slope: float
    intercept: float
    r2: float


def fit_line(at: Sequence[float], milliseconds: Sequence[float]) -> Line:
    """Fit a line by least squares."""
    slope, intercept = np.polyfit(at, milliseconds, 1)
    return Line(
        at=list(at),
        milliseconds=list(milliseconds),
        slope=float(slope),
        intercept=float(intercept),
        r2=float(np.corrcoef(at, milliseconds)[0, 1] ** 2),
    )
