"""The interface of an answer rule, and how the passes of several samples are run together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import batch_slices

CHUNK = 64  # passes in one request to the session

Pixels = NDArray[Any]  # uint8, or float32 in units of uint8 pixels
Samples = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
Logits = Callable[[Pixels], NDArray[np.float32]]  # (N, [T,] H, W, 3) to (N, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is proved of one answer.

    Attributes:
        kind: the rule that proves it.
        certified: the proof holds for this answer; otherwise nothing is proved, and `noise` abstains.
        passes: passes that the answer and its certificate took.
        confidence: probability, at least, that the proof is right; 1 for `masks`.
        patch: of `masks`, height and width in pixels: no change inside one rectangle of this size or smaller, at any
            place of the model's input, would have changed the answer.
        radius: of `noise`, in units of [0, 1] pixels: no change of a smaller L2 norm would have changed the answer of
            the rule with infinitely many copies; 0 if it abstains.
        sigma: of `noise`, standard deviation in units of [0, 1] pixels.
    """

    kind: Literal["masks", "noise"]
    certified: bool
    passes: int
    confidence: float
    patch: tuple[int, int] | None = None
    radius: float | None = None
    sigma: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleAnswer:
    """One sample's answer.

    Attributes:
        logits: float32 (classes,); their largest is the answer. Of several passes, the logarithm of probabilities.
        passes: passes that it took.
        certificate: None if it was not requested.
        votes: of `masks`, the class under each mask of the mask set, in its order.
    """

    logits: NDArray[np.float32]
    passes: int
    certificate: Certificate | None = None
    votes: tuple[int, ...] = field(default=())

    @property
    def label(self) -> int:
        """Index of the answer's class."""
        return int(self.logits.argmax())


Steps = Generator[Pixels, NDArray[np.float32], RuleAnswer]
"""Yields passes, (n, [T,] H, W, 3) with n <= CHUNK; is sent their logits, (n, classes); returns the answer."""


class Rule(Protocol):
    """An answer rule for inputs of one size.

    Attributes:
        certifies: whether `certify` is available.
    """

    certifies: bool

    def steps(self, sample: NDArray[np.uint8], *, certify: bool = False) -> Steps:
        """The passes over one sample, uint8 ([T,] H, W, 3), that lead to its answer."""

    def usual_passes(self, *, certify: bool = False) -> int:
        """Passes for one sample on which they agree."""

    def max_passes(self, *, certify: bool = False) -> int:
        """Largest number of passes for one sample."""


def answer_all(rule: Rule, samples: Samples, logits: Logits, *, certify: bool = False) -> list[RuleAnswer]:
    """Answer samples, uint8 (N, [T,] H, W, 3), with at most CHUNK passes in each call of `logits`."""
    passes = Passes(rule, samples, certify=certify)
    pixels = passes.next()
    while pixels is not None:
        pixels = passes.next(logits(pixels))
    return passes.answers


class Passes:
    """The passes of several samples, for whoever runs them: at most CHUNK at a time, of as many samples as fit.

    Attributes:
        answers: one for each sample, complete once `next` has returned None.
    """

    def __init__(self, rule: Rule, samples: Samples, *, certify: bool = False) -> None:
        self.answers: list[RuleAnswer] = []
        self._steps = _all_steps(rule, samples, certify=certify)

    def next(self, logits: NDArray[np.float32] | None = None) -> Pixels | None:
        """Given the logits of the previous passes (None at first), the next ones; None after the last."""
        try:
            return self._steps.send(logits)  # type: ignore[arg-type]
        except StopIteration as stop:
            self.answers = stop.value
            return None


def _all_steps(
    rule: Rule, samples: Samples, *, certify: bool
) -> Generator[Pixels, NDArray[np.float32], list[RuleAnswer]]:
    answers: list[RuleAnswer] = []
    group = max(1, CHUNK // rule.usual_passes(certify=certify))
    for part in batch_slices(len(samples), group):
        steps = [rule.steps(sample, certify=certify) for sample in samples[part]]
        answers += [(yield from steps[0])] if len(steps) == 1 else (yield from _in_lockstep(steps))
    return answers


def ask(passes: Iterator[Pixels]) -> Generator[Pixels, NDArray[np.float32], NDArray[np.float32]]:
    """Yield chunks of passes one by one; returns all their logits."""
    logits = []
    for chunk in passes:
        logits.append((yield chunk))  # noqa: PERF401 - a comprehension cannot yield
    return np.concatenate(logits)


def _in_lockstep(many: list[Steps]) -> Generator[Pixels, NDArray[np.float32], list[RuleAnswer]]:
    answers: dict[int, RuleAnswer] = {}
    replies: dict[int, NDArray[np.float32] | None] = dict.fromkeys(range(len(many)))
    while replies:
        requests: dict[int, Pixels] = {}
        for index, reply in replies.items():
            try:
                requests[index] = many[index].send(reply)  # type: ignore[arg-type]
            except StopIteration as stop:
                answers[index] = stop.value
        if not requests:
            break
        passes = np.concatenate(list(requests.values()))
        logits = yield from ask(passes[part] for part in batch_slices(len(passes), CHUNK))
        ends = np.cumsum([len(request) for request in requests.values()])
        replies = dict(zip(requests, np.split(logits, ends[:-1]), strict=True))
    return [answers[index] for index in range(len(many))]
