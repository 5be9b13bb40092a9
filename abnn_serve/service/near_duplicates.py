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

from abnn_serve.service.fingerprints import SKETCH, Fingerprint, Inputs
from abnn_serve.service.metrics import Metrics

Mode = Literal["count", "label-only"]

CALLERS = 256  # the least recent is forgotten; each takes 57 kB
WINDOW = 512  # samples of each caller
SECONDS = 3600.0
ALARM = 32  # resembling samples in the window, where neither the settings nor the key's terms say otherwise
TOLERANCE = 16  # of 255


class _Window:
    """The last inputs of one caller."""

    def __init__(self) -> None:
        self.times = np.full(WINDOW, -np.inf)
        self.identities = np.zeros(WINDOW, np.int64)
        self._sketches = np.zeros((SKETCH, WINDOW), np.int16)  # one a column, which NumPy compares fastest
        self._next = 0

    def near(self, sketch: NDArray[np.int16], since: float) -> NDArray[np.intp]:
        """Indices of inputs that resemble a sketch and are newer than `since`."""
        distances = np.abs(self._sketches - sketch[:, None]).max(axis=0)
        near: NDArray[np.intp] = ((distances <= TOLERANCE) & (self.times > since)).nonzero()[0]
        return near

    def add(self, sketch: NDArray[np.int16], identity: int, now: float) -> None:
        """Remember an input in the place of the oldest."""
        index = self._next
        self._sketches[:, index], self.times[index], self.identities[index] = sketch, now, identity
        self._next = (index + 1) % WINDOW


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
