"""The sanity check that no attack changes an answer that a certificate says it cannot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from abnn_serve.answer import Answer, rectangle
from abnn_serve.card import SanityCheck
from abnn_serve.evaluation.certificates import Certificates, certificates_of
from abnn_serve.evaluation.outcomes import Evaluation, Outcome
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.attacks.roa import ROA, Patch
from abnn_serve.lab.data.dataset import ImageData

_CHANCE = 0.01  # of the samples: a few votes may change an answer near the edge of its radius


def check_certificates(subject: Subject, evaluation: Evaluation) -> tuple[SanityCheck, ...]:
    """Certify the attacked samples and compare; empty without a rule or an attack within its bound."""
    answer = subject.answer
    if answer is None:
        return ()
    within = list(_within(answer, evaluation))
    if not within:
        return ()
    data = evaluation.data
    certificates = certificates_of(subject.logits, answer, data.images)
    broken = sum(int((proved_against(certificates, data, outcome) & ~outcome.is_correct).sum()) for outcome in within)
    allowed = 0 if answer.masks else _CHANCE * len(data) * len(within)
    proved = int((certificates.certified & (certificates.labels == data.labels)).sum())
    return (
        SanityCheck.of(
            "no attack breaks a certificate",
            passed=broken <= allowed,
            detail=f"{proved:,} of {len(data):,} samples are certified; {len(within)} attacks within the bound changed "
            f"{broken} of them",
        ),
    )


def proved_against(certificates: Certificates, data: ImageData, outcome: Outcome) -> NDArray[np.bool_]:
    """Which samples are proved to stay correct under the outcome's attack, bool (N,)."""
    proved: NDArray[np.bool_] = certificates.certified & (certificates.labels == data.labels)
    attack = outcome.trial.attack
    return proved & (certificates.radii >= attack.eps) if attack.norm == "L2" else proved


def _within(answer: Answer, evaluation: Evaluation) -> Iterator[Outcome]:
    """The outcomes of attacks that the rule's certificates are about."""
    size = evaluation.data.images.shape[-3:-1]
    for outcome in evaluation.outcomes:
        attack = outcome.trial.attack
        if answer.noise and attack.norm == "L2":
            yield outcome
        if answer.masks and isinstance(attack, ROA) and not attack.moving:
            sides = attack.sides if isinstance(attack, Patch) else rectangle(attack.eps, size[0], size[1])
            if all(side <= bound for side, bound in zip(sides, answer.masks.patch, strict=True)):
                yield outcome
