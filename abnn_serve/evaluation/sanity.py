"""Signs of a misleading evaluation (Carlini et al. 2019; Croce & Hein 2020), each looked for and reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from abnn_serve.card import Accuracy, Curve, SanityCheck, ThreatModel
from abnn_serve.evaluation.gradient_check import TOLERANCE, gradient_error
from abnn_serve.evaluation.outcomes import Evaluation
from abnn_serve.lab.attacks.base import Model, ascend, cross_entropy, evaluating
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.regions import Linf
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input

_SLACK = 0.005  # of accuracy: less is the luck of random starts
_MASKING = 0.10  # of accuracy, between an attacker with the substitute's gradient and one without
_WEAKER: tuple[ThreatModel, ...] = ("transfer", "substitute-transfer", "blackbox")


def check_network(network: Model, data: ImageData, *, eps: float = 8 / 255) -> tuple[SanityCheck, ...]:
    """What the network alone shows: its gradients, its randomness, its batches, its logits.

    Args:
        network: pixels in [0, 1] to logits; gradients are looked at in a Module only.
        data: a few tens of labelled samples; two at least.
        eps: Linf budget, in units of [0, 1] pixels, for the check that the loss rises.
    """
    module = network if isinstance(network, nn.Module) else None
    place = next((parameter.device for parameter in module.parameters()), None) if module else None
    place = place or torch.device("cpu")
    x, y = to_input(data.images, place), torch.from_numpy(data.labels).to(place)
    with evaluating(network):
        gradients = _of_gradients(module, x, y, eps) if module else []
        return (*gradients, *_of_answers(network, x))


def check_evaluation(
    evaluation: Evaluation, eps_curve: Curve | None = None, steps_curve: Curve | None = None
) -> tuple[SanityCheck, ...]:
    """What the figures show: weaker attackers that win, attacks that do not get better with budget or steps."""
    found = [*_of_threats(evaluation), *_of_queries(evaluation)]
    if eps_curve:
        eps, accuracy = eps_curve.points[-1]
        found.append(
            SanityCheck(
                check="an unbounded attack reaches 0%",
                raised=accuracy.value > 0.01,
                detail=f"at eps {eps:.3g}, {eps_curve.attack} leaves {accuracy}",
            )
        )
    if steps_curve:
        values = [accuracy.value for _, accuracy in steps_curve.points]
        found.append(
            SanityCheck(
                check="more steps hurt",
                raised=values[-1] > min(values) + 0.02,
                detail=", ".join(f"{steps:.0f} steps {accuracy.value:.1%}" for steps, accuracy in steps_curve.points),
            )
        )
    flags = sorted({flag for outcome in evaluation.outcomes for flag in outcome.flags})
    found += [SanityCheck(check="AutoAttack's own flag", raised=True, detail=flag) for flag in flags]
    return tuple(found)


def _of_gradients(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> list[SanityCheck]:
    x_adv = x.clone().requires_grad_()
    every = torch.arange(len(x), device=x.device)
    loss = cross_entropy(y)(network(x_adv), every)
    gradient = torch.autograd.grad(loss.sum(), x_adv)[0] if loss.requires_grad else torch.zeros_like(x)
    lengths = gradient.flatten(1).norm(dim=1)
    vanished = float((lengths < 1e-7).float().mean())
    error = float(gradient_error(network, x[:16]).median())
    checks = [
        SanityCheck(
            check="gradients do not vanish",
            raised=vanished > 0.05,
            detail=f"{vanished:.1%} of the input gradients are shorter than 1e-7; median length {lengths.median():.2g}",
        ),
        SanityCheck(
            check="gradients match finite differences",
            raised=error > TOLERANCE,
            detail=f"median error {error:.2g} along random directions, in float64",
        ),
    ]
    if not loss.requires_grad:
        return checks
    after = ascend(network, x, y, x, Linf(eps), loss=cross_entropy(y), step_sizes=[eps / 4] * 10, early_stop=False)
    with torch.no_grad():
        rise = cross_entropy(y)(network(after), every) - loss
    flat = float((rise <= 0).float().mean())
    return [
        *checks,
        SanityCheck(
            check="the loss rises under attack",
            raised=flat > 0.05,
            detail=f"for {flat:.1%} of the samples ten steps did not raise it; median rise {rise.median():.2g}",
        ),
    ]


@torch.no_grad()
def _of_answers(network: Model, x: Tensor) -> list[SanityCheck]:
    logits = network(x)
    again = float((network(x) - logits).abs().max())
    alone = float((torch.cat([network(sample[None]) for sample in x[:8]]) - logits[:8]).abs().max())
    sums = float((logits.sum(dim=1) - 1).abs().max())
    return [
        SanityCheck(
            check="answers are not random", raised=again > 1e-5, detail=f"asked twice, logits differ by {again:.1e}"
        ),
        SanityCheck(
            check="answers do not depend on batch neighbours",
            raised=alone > 1e-3,
            detail=f"alone and in a batch, logits differ by {alone:.1e}",
        ),
        SanityCheck(
            check="logits are not probabilities",
            raised=sums < 1e-4 and float(logits.min()) >= 0,
            detail=f"they sum to 1 within {sums:.1e}",
        ),
    ]


def _of_threats(evaluation: Evaluation) -> Sequence[SanityCheck]:
    worst = evaluation.worst
    if "whitebox" not in worst:
        return []
    white = worst["whitebox"].value
    checks = [
        SanityCheck(
            check=f"{threat} does not beat whitebox",
            raised=worst[threat].value < white - _SLACK,
            detail=f"{threat} leaves {worst[threat].value:.1%}, whitebox {white:.1%}",
        )
        for threat in _WEAKER
        if threat in worst
    ]
    return [*checks, *_of_masking(evaluation)]


def _of_masking(evaluation: Evaluation) -> Sequence[SanityCheck]:
    """The same attacks with the substitute's gradient and without it."""
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
    raised = gray > white + _MASKING
    return [
        SanityCheck(
            check="robustness does not rest on hiding the substitute",
            raised=raised,
            detail=f"the same attacks leave {gray:.1%} without the substitute's gradient and {white:.1%} with it"
            + (": the difference is masking, not robustness" if raised else ""),
        )
    ]


def _of_queries(evaluation: Evaluation) -> Sequence[SanityCheck]:
    """Square against the attacks that follow the gradient and ask nothing else, in the same threat model."""
    white = [outcome for outcome in evaluation.outcomes if outcome.trial.threat_model == "whitebox"]
    asked = [outcome.is_correct for outcome in white if isinstance(outcome.trial.attack, Square)]
    steered = [outcome.is_correct for outcome in white if isinstance(outcome.trial.attack, FGSM | PGD)]
    if not asked or not steered:
        return []
    by_queries = Accuracy.of(np.logical_and.reduce(asked)).value
    by_gradient = Accuracy.of(np.logical_and.reduce(steered)).value
    return [
        SanityCheck(
            check="queries alone do not beat gradients",
            raised=by_queries < by_gradient - _SLACK,
            detail=f"Square leaves {by_queries:.1%}, attacks with the gradient {by_gradient:.1%}",
        )
    ]
