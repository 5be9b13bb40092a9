"""Double masking: answers that no patch up to a known size could have changed (Xiang, Mahloujifar & Mittal, 2022).

Let F be the classifier, x an image, M a set of masks such that every patch of the allowed size, at every place, lies
inside at least one of them (`answer.mask_set`), and x - m the image whose pixels under the mask m are replaced by a
constant. The answer is found in at most two rounds:

1. F(x - m) for every m in M. If all agree on a class, that is the answer.
2. Otherwise let c be the most frequent of them. For each m whose class c' differs from c ("a dissenter"): if
   F(x - m - m') = c' for every m' in M, the answer is c'.
3. If no dissenter is confirmed in this way, the answer is c.

Claim. If F(x - m - m') = y for all pairs m, m' in M, then the answer for x, and for every image x* that differs from x
only inside one allowed patch, is y.

Proof. For x all of round 1 is y (m' = m). For x*, let m* be a mask that covers the patch, so x* - m* = x - m*, and
F(x* - m* - m) = F(x - m* - m) = y for every m. (a) If round 1 agrees, it agrees on F(x* - m*) = y. (b) A dissenter m
with a class c' other than y is never confirmed, because F(x* - m - m*) = y. (c) If c = y, then by (b) the answer is c.
(d) If c differs from y, then m* is a dissenter with the class y, and it is confirmed; by (b) no other class is.

The claim holds in both directions: if x itself already shows a patch, then the image without it has the answer y, too.
F(x - m - m') is computed on other batches and engines for x* than for x, and rounds differently. So a certificate also
requires that in every pass the class leads by more than `MARGIN`, which exceeds these differences.

In a clip a mask hides the same pixels of every frame, so the patch may change from frame to frame but not move.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from abnn_serve.answer import Masks, mask_set
from abnn_serve.arrays import batch_slices, softmax
from abnn_serve.runtime.rules.base import CHUNK, Certificate, RuleAnswer, Steps, ask

MARGIN = 1e-3  # of logits: batch sizes and engines differ by less


class MaskRule:
    """Double masking on inputs of one size.

    Args:
        masks: patch, grid and fill.
        size: height and width of the input in pixels.

    Attributes:
        views: bool (views, height, width), the pixels that each pass hides: first every mask, then every union of two
            masks; views that hide the same pixels are one.
        boxes: top, left, height and width in pixels of every mask.
        pairs: int64 (masks, masks), the view that hides both masks.
    """

    certifies = True

    def __init__(self, masks: Masks, size: tuple[int, int]) -> None:
        self.masks = masks
        single = mask_set(size, masks.patch, masks.k)
        numbers = {mask.tobytes(): index for index, mask in enumerate(single)}
        views, self.pairs = list(single), np.zeros((len(single),) * 2, np.int64)
        self.boxes = tuple(_box(mask) for mask in single)
        self._hidden: list[tuple[tuple[int, int, int, int], ...]] = [(box,) for box in self.boxes]
        for (i, one), (j, other) in ((a, b) for a in enumerate(single) for b in enumerate(single)):
            union = one | other
            self.pairs[i, j] = numbers.setdefault(union.tobytes(), len(numbers))
            if len(numbers) > len(views):
                views.append(union)
                self._hidden.append((self.boxes[i], self.boxes[j]))
        self.views = np.stack(views)
        self._count = len(single)
        self._fill = np.tile(np.array(masks.fill, np.uint8), size[1])  # one row of pixels

    def usual_passes(self, *, certify: bool = False) -> int:
        """Every mask; every view for a certificate."""
        return len(self.views) if certify else self._count

    def max_passes(self, *, certify: bool = False) -> int:  # noqa: ARG002
        """All views: a certificate needs each, and an answer may, if every mask dissents."""
        return len(self.views)

    def steps(self, sample: NDArray[np.uint8], *, certify: bool = False) -> Steps:
        """Round 1, then round 2 if the masks disagree; with `certify`, pairs until one prevents the certificate."""
        logits = yield from self._look(sample, np.arange(self._count))
        votes = logits.argmax(axis=1)
        if (votes == votes[0]).all():
            label, passes, certified = int(votes[0]), self._count, bool((_leads(logits) > MARGIN).all())
            while certify and certified and passes < len(self.views):
                chunk = np.arange(passes, min(passes + CHUNK, len(self.views)))
                pairs = yield self.hide(sample, chunk)
                certified = bool((pairs.argmax(axis=1) == label).all() and (_leads(pairs) > MARGIN).all())
                passes += len(chunk)
        else:
            classes, certified = np.full(len(self.views), -1), False
            classes[: self._count] = votes
            asked = np.unique(self.pairs[votes != most_frequent(votes)])
            asked = asked[classes[asked] < 0]
            if len(asked):
                classes[asked] = (yield from self._look(sample, asked)).argmax(axis=1)
            label, passes = decide(votes, classes[self.pairs]), self._count + len(asked)
        answer = self._answer(logits, votes, label, passes=passes)
        if not certify:
            return answer
        certificate = Certificate(
            kind="masks", certified=certified, passes=passes, confidence=1.0, patch=self.masks.patch
        )
        return replace(answer, certificate=certificate)

    def _answer(self, logits: NDArray[np.float32], votes: NDArray[np.int64], label: int, *, passes: int) -> RuleAnswer:
        agreeing = logits[votes == label]
        return RuleAnswer(logits=_log_mean(agreeing, label), passes=passes, votes=tuple(votes.tolist()))

    def _look(
        self, sample: NDArray[np.uint8], views: NDArray[np.int64]
    ) -> Generator[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        return (yield from ask(self.hide(sample, views[part]) for part in batch_slices(len(views), CHUNK)))

    def hide(self, sample: NDArray[np.uint8], views: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The sample, uint8 ([T,] H, W, 3), as each of these views shows it, uint8 (views, [T,] H, W, 3)."""
        seen = np.repeat(sample[None], len(views), axis=0)
        rows = seen.reshape(*seen.shape[:-2], -1)
        for each, view in zip(rows, views, strict=True):
            for top, left, height, width in self._hidden[view]:  # ten times as fast as by boolean index
                each[..., top : top + height, 3 * left : 3 * (left + width)] = self._fill[: 3 * width]
        return seen


def decide(votes: NDArray[np.int64], confirmations: NDArray[np.int64]) -> int:
    """The answer of double masking.

    Args:
        votes: int64 (masks,), the class under each mask.
        confirmations: int64 (masks, masks), the class under each pair of masks; only the rows of dissenters are read.
    """
    majority = most_frequent(votes)
    for mask in np.flatnonzero(votes != majority):
        if (confirmations[mask] == votes[mask]).all():
            return int(votes[mask])
    return majority


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


def most_frequent(classes: NDArray[np.int64]) -> int:
    """The most frequent class; of several, the one with the lowest index."""
    return int(np.bincount(classes).argmax())


def _leads(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the largest logit of each row is above the second."""
    largest = np.partition(logits, -2, axis=1)[:, -2:]
    return largest[:, 1] - largest[:, 0]


def _log_mean(logits: NDArray[np.float32], label: int) -> NDArray[np.float32]:
    """Logarithm of the mean probabilities of passes that all give `label`; its value is the largest."""
    mean = softmax(logits).mean(axis=0)
    result: NDArray[np.float32] = np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)
    if result.argmax() != label:  # rounding made another class equal
        result[label] = np.nextafter(result.max(), np.float32(np.inf))
    return result
