"""A sign of query attacks: many samples from one caller that differ only a little from each other.

An attack by queries asks for images within a small distance of one image. Two images within Linf 8/255 of a third
differ by at most 16 of 255 in the mean of every cell of a grid, which few images of a data set do (docs/security.md),
but the frames of one video often do. It slows an attacker with one key; several keys, larger changes, or other images
in between avoid it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from abnn_serve.service.fingerprints import GRID, Fingerprint, Inputs
from abnn_serve.service.metrics import Metrics

Mode = Literal["count", "label-only"]

CALLERS = 256  # the least recent is forgotten; each takes 95 kB
WINDOW = 512  # samples of each caller
SECONDS = 3600.0
ALARM = 32  # resembling samples in the window, where neither the settings nor the key's terms say otherwise
TOLERANCE = 16  # of 255
_CELLS = GRID * GRID
_MIDDLE = 382  # half of the largest sum of three colours
_NONE = np.zeros(0, np.intp)


class _Window:
    """The last inputs of one caller."""

    def __init__(self) -> None:
        self.sketches = np.zeros((WINDOW, 3 * _CELLS), np.int16)
        self.times = np.full(WINDOW, -np.inf)
        self.identities = np.zeros(WINDOW, np.int64)
        self.next = 0
        self._greys = np.zeros((WINDOW, _CELLS + 1), np.float32)  # sums of each cell's colours, and -1/2 of their norm
        self._greys[:, _CELLS] = -np.inf

    def near(self, sketch: NDArray[np.int16], since: float) -> NDArray[np.intp]:
        """Indices of inputs that resemble a sketch and are not older than `since`.

        One product rules out most: where every cell is within the tolerance, so is the distance of the sums.
        """
        grey = _grey(sketch)
        least = (float(grey @ grey) - 1 - _CELLS * (3 * TOLERANCE) ** 2) / 2 - 1  # -1 for rounding
        products = self._greys @ grey
        if products.max() < least:
            return _NONE
        candidates = (products >= least).nonzero()[0]
        is_near = np.abs(self.sketches[candidates] - sketch).max(axis=1) <= TOLERANCE
        similar: NDArray[np.intp] = candidates[is_near & (self.times[candidates] > since)]
        return similar

    def add(self, sketch: NDArray[np.int16], identity: int, now: float) -> None:
        """Remember an input in the place of the oldest."""
        index, grey = self.next, _grey(sketch)
        grey[_CELLS] = -(float(grey @ grey) - 1) / 2
        self.sketches[index], self._greys[index] = sketch, grey
        self.times[index], self.identities[index] = now, identity
        self.next = (index + 1) % WINDOW


def _grey(sketch: NDArray[np.int16]) -> NDArray[np.float32]:
    """The sums of each cell's colours about their middle, and 1, float32 (17,)."""
    grey = np.ones(_CELLS + 1, np.float32)
    np.subtract(sketch[0::3] + sketch[1::3] + sketch[2::3], _MIDDLE, out=grey[:_CELLS])
    return grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose inputs are compared with each other.

    Attributes:
        name: of the API key, or the client's address.
        key: name of the API key; empty without keys.
        alarm: resembling inputs from which on they are suspicious.
    """

    name: str
    key: str = ""
    alarm: int = ALARM


class NearDuplicates:
    """Counts inputs that resemble earlier ones of the same caller; an identical input reveals nothing and is ignored.

    Args:
        metrics: the worker's metrics.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._clock = metrics, clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def count_inputs(self, caller: Caller, inputs: Inputs) -> list[bool]:
        """As `count`, with the fingerprints of inputs."""
        return self.count(caller, [Fingerprint.of(samples) for samples in inputs])

    def count(self, caller: Caller, fingerprints: Sequence[Fingerprint]) -> list[bool]:
        """Remember and count inputs; for each, whether it resembles many others of this caller in the window."""
        counts = [self.observe(caller.name, fingerprint) for fingerprint in fingerprints]
        suspicious = [count >= caller.alarm for count in counts]
        if any(counts):
            self._metrics.near_duplicates.labels(caller.key).inc(sum(count > 0 for count in counts))
            self._metrics.suspicious.labels(caller.key).inc(sum(suspicious))
        return suspicious

    def observe(self, caller: str, fingerprint: Fingerprint) -> int:
        """Remember an input; the number of other inputs of this caller in the window that it resembles."""
        if (window := self._windows.get(caller)) is None:
            window = self._windows[caller] = _Window()
        self._windows.move_to_end(caller)
        if len(self._windows) > CALLERS:
            self._windows.popitem(last=False)
        now, identity = self._clock(), fingerprint.identity
        similar = window.near(fingerprint.sketch, now - SECONDS)
        same = similar[window.identities[similar] == identity]
        if len(same):
            window.times[same] = now
        else:
            window.add(fingerprint.sketch, identity, now)
        return len(similar) - len(same)
