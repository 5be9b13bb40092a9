"""The rule of a bundle, and the answer to a video from those to its clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from abnn_serve.answer import Answer
from abnn_serve.runtime.rules.base import Certificate, Rule, RuleAnswer
from abnn_serve.runtime.rules.masks import MaskRule
from abnn_serve.runtime.rules.noise import NoiseRule
from abnn_serve.runtime.rules.plain import PlainRule


def make_rule(answer: Answer | None, size: tuple[int, int], key: bytes = b"") -> Rule:
    """The rule for inputs of this height and width in pixels; `key` is that of the noise."""
    if answer is None:
        return PlainRule()
    if answer.masks:
        return MaskRule(answer.masks, size)
    assert answer.noise is not None  # noqa: S101
    return NoiseRule(answer.noise, key)


def of_video(clips: Sequence[RuleAnswer], label: int) -> Certificate | None:
    """The certificate of a video whose clips have these answers; None if they have no certificates.

    The video's probabilities are the mean of its clips', and within the proof every clip keeps its answer. So if all
    clips are certified with the video's class, it stays the most probable one of their mean. Several random
    certificates hold together with the sum of their error probabilities.
    """
    certificates = [clip.certificate for clip in clips if clip.certificate]
    if not certificates:
        return None
    certified = all(certificate.certified for certificate in certificates) and {clip.label for clip in clips} == {label}
    radii = [certificate.radius for certificate in certificates if certificate.radius is not None]
    return replace(
        certificates[0],
        certified=certified,
        passes=sum(certificate.passes for certificate in certificates),
        confidence=max(0.0, 1 - sum(1 - certificate.confidence for certificate in certificates)),
        radius=(min(radii) if certified else 0.0) if radii else None,
    )
