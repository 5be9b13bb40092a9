"""Sanity checks that expose a misleading evaluation (Carlini et al. 2019; Croce & Hein 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abnn_serve.card import Accuracy, Curve, SanityCheck, ThreatModel
from abnn_serve.evaluation.outcomes import Evaluation
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.square import Square

_SLACK = 0.005  # of accuracy: smaller differences come from random starts
_MASKING = 0.10  # of accuracy, between attackers with the substitute's gradient and without it
_WEAKER: tuple[ThreatModel, ...] = ("transfer", "substitute-transfer", "blackbox")


def check_evaluation(
    evaluation: Evaluation, eps_curve: Curve | None = None, steps_curve: Curve | None = None
) -> tuple[SanityCheck, ...]:
    """Check the figures: weaker attackers do not win, and attacks grow stronger with their budget and steps."""
    checks = [*_check_threats(evaluation), *_check_queries(evaluation)]
    if eps_curve:
        eps, accuracy = eps_curve.points[-1]
        checks.append(
            SanityCheck.of(
                "an unbounded attack reaches 0%",
                passed=accuracy.value <= 0.01,
                detail=f"at eps {eps:.3g}, accuracy under {eps_curve.attack} is {accuracy}",
            )
        )
    if steps_curve:
        values = [accuracy.value for _, accuracy in steps_curve.points]
        checks.append(
            SanityCheck.of(
                "more steps lower the accuracy",
                passed=values[-1] <= min(values) + 0.02,
                detail=", ".join(f"{steps:.0f} steps {accuracy.value:.1%}" for steps, accuracy in steps_curve.points),
            )
        )
    flags = sorted({flag for outcome in evaluation.outcomes for flag in outcome.flags})
    checks += [SanityCheck.of("AutoAttack raises no warning", passed=False, detail=flag) for flag in flags]
    return tuple(checks)


def _check_threats(evaluation: Evaluation) -> Sequence[SanityCheck]:
    worst = evaluation.worst
    if "whitebox" not in worst:
        return []
    white = worst["whitebox"].value
    checks = [
        SanityCheck.of(
            f"{threat} does not beat whitebox",
            passed=worst[threat].value >= white - _SLACK,
            detail=f"accuracy is {worst[threat].value:.1%} under {threat} and {white:.1%} under whitebox",
        )
        for threat in _WEAKER
        if threat in worst
    ]
    return [*checks, *_check_masking(evaluation)]


def _check_masking(evaluation: Evaluation) -> Sequence[SanityCheck]:
    """Compare the same attacks with the substitute's gradient and without it."""
    by_threat = {
        threat: {o.trial.attack: o.is_correct for o in evaluation.outcomes if o.trial.threat_model == threat}
        for threat in ("graybox", "whitebox")
    }
    both = by_threat["graybox"].keys() & by_threat["whitebox"].keys()
    if not both:
        return []
    gray, white = (
        Accuracy.of(np.logical_and.reduce([is_correct[attack] for attack in both])).value
        for is_correct in by_threat.values()
    )
    passed = gray <= white + _MASKING
    return [
        SanityCheck.of(
            "robustness does not rest on hiding the substitute",
            passed=passed,
            detail=f"accuracy under the same attacks is {gray:.1%} without the substitute's gradient and {white:.1%} "
            "with it" + ("" if passed else ": the difference is masking, not robustness"),
        )
    ]


def _check_queries(evaluation: Evaluation) -> Sequence[SanityCheck]:
    """Compare Square with FGSM and PGD in the white-box threat model; other attacks there combine both."""
    white = [outcome for outcome in evaluation.outcomes if outcome.trial.threat_model == "whitebox"]
    square = [outcome.is_correct for outcome in white if isinstance(outcome.trial.attack, Square)]
    gradient = [outcome.is_correct for outcome in white if isinstance(outcome.trial.attack, FGSM | PGD)]
    if not square or not gradient:
        return []
    by_queries = Accuracy.of(np.logical_and.reduce(square)).value
    by_gradient = Accuracy.of(np.logical_and.reduce(gradient)).value
    return [
        SanityCheck.of(
            "queries alone do not beat gradients",
            passed=by_queries >= by_gradient - _SLACK,
            detail=f"Square leaves {by_queries:.1%} accuracy, gradient attacks {by_gradient:.1%}",
        )
    ]
