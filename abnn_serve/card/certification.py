"""Accuracy with a proof."""

from __future__ import annotations

import math
from dataclasses import dataclass

from abnn_serve.answer import Answer
from abnn_serve.card.accuracy import Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPoint:
    """Accuracy with a proof against one budget.

    Attributes:
        patch: height and width in pixels, with masks for this patch; None for noise.
        radius: of the L2 norm, in units of [0, 1] pixels; None for masks.
        clean: accuracy of the rule on unperturbed samples.
        certified: samples that are classified correctly, with a proof that no change within the budget alters that.
    """

    patch: tuple[int, int] | None
    radius: float | None
    clean: Accuracy
    certified: Accuracy

    @property
    def budget(self) -> float:
        """The radius, or the side of a square of the patch's area in pixels."""
        return math.sqrt(math.prod(self.patch)) if self.patch else self.radius or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certification:
    """What `abnn certify` proved.

    Attributes:
        rule: the answer rule; the masks of other patches than its own have the same k.
        plain: accuracy of one pass without the rule.
        points: by growing budget.
        uncertified: samples without a certificate of the rule, whatever their class; for noise, abstentions.
        confidence: probability, at least, that one certificate is right; 1 for masks.
        answer_passes, certificate_passes: mean passes for an answer, and for an answer with its certificate.
        answer_seconds, certificate_seconds: mean time for them, on `hardware` with one thread.
    """

    rule: Answer
    plain: Accuracy
    points: tuple[CertifiedPoint, ...]
    uncertified: int
    confidence: float
    answer_passes: float
    certificate_passes: float
    answer_seconds: float
    certificate_seconds: float
    hardware: str
