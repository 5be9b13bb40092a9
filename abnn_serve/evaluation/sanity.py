"""Sanity checks that expose a misleading evaluation (Carlini et al. 2019; Croce & Hein 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from abnn_serve.card import Accuracy, Curve, SanityCheck, ThreatModel
from abnn_serve.evaluation.gradient_check import TOLERANCE, gradient_error
from abnn_serve.evaluation.outcomes import Evaluation
from abnn_serve.lab.attacks.adaptive import StraightThroughNetwork, steps_without_gradient
from abnn_serve.lab.attacks.base import Model, ascend, cross_entropy, evaluating
from abnn_serve.lab.attacks.pgd import FGSM, PGD
from abnn_serve.lab.attacks.regions import Linf
from abnn_serve.lab.attacks.square import Square
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input

_SLACK = 0.005  # of accuracy: smaller differences come from random starts
_MASKING = 0.10  # of accuracy, between attackers with the substitute's gradient and without it
_WEAKER: tuple[ThreatModel, ...] = ("transfer", "substitute-transfer", "blackbox")


def check_network(
    network: Model,
    data: ImageData,
    *,
    eps: float = 8 / 255,
    differentiated: nn.Module | None = None,
    draws: int = 1,
) -> tuple[SanityCheck, ...]:
    """Check the network alone: its gradients, determinism, independence of batch neighbours, and logits.

    Args:
        network: pixels in [0, 1] to logits; gradients are checked only if it is a Module.
        data: a few tens of labelled samples, at least two.
        eps: Linf budget, in units of [0, 1] pixels, of the check that the loss rises.
        differentiated: the network with the gradient that attackers use, where that is not its own.
        draws: over which attackers take the mean; 1 for a network that is not random.
    """
    module = network if isinstance(network, nn.Module) else None
    parameter = next(module.parameters(), None) if module else None
    device = torch.device("cpu") if parameter is None else parameter.device
    x, y = to_input(data.images, device), torch.from_numpy(data.labels).to(device)
    with evaluating(network):
        gradients = _check_gradients(module, x, y, eps, differentiated or module, draws) if module else []
        return (*gradients, *_check_logits(network, x, draws))


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


def _check_gradients(
    network: nn.Module, x: Tensor, y: Tensor, eps: float, attacked: nn.Module, draws: int
) -> list[SanityCheck]:
    x_adv = x.clone().requires_grad_()
    samples = torch.arange(len(x), device=x.device)
    loss = cross_entropy(y)(attacked(x_adv), samples)
    gradient = torch.autograd.grad(loss.sum(), x_adv)[0] if loss.requires_grad else torch.zeros_like(x)
    lengths = gradient.flatten(1).norm(dim=1)
    vanished = float((lengths < 1e-7).float().mean())
    steps = steps_without_gradient(network, x[:1])
    checks = [
        SanityCheck.of(
            "gradients do not vanish",
            passed=vanished <= 0.05,
            detail=f"{vanished:.1%} of the input gradients are shorter than 1e-7; median length {lengths.median():.2g}",
        ),
        *([_check_steps(attacked, steps)] if steps else [_check_differences(network, x[:16])] if draws == 1 else []),
    ]
    if not loss.requires_grad:
        return checks
    x_adv = ascend(attacked, x, y, x, Linf(eps), loss=cross_entropy(y), step_sizes=[eps / 4] * 10, early_stop=False)
    with torch.no_grad():
        rise = cross_entropy(y)(attacked(x_adv), samples) - loss
    flat = float((rise <= 0).float().mean())
    return [
        *checks,
        SanityCheck.of(
            "the loss rises under attack",
            passed=flat <= 0.05,
            detail=f"ten steps did not raise it for {flat:.1%} of the samples; median rise {rise.median():.2g}",
        ),
    ]


def _check_differences(network: nn.Module, x: Tensor) -> SanityCheck:
    error = float(gradient_error(network, x).median())
    return SanityCheck.of(
        "gradients match finite differences",
        passed=error <= TOLERANCE,
        detail=f"median error {error:.2g} along random directions, in float64",
    )


def _check_steps(attacked: nn.Module, steps: tuple[str, ...]) -> SanityCheck:
    is_adaptive = any(isinstance(module, StraightThroughNetwork) for module in attacked.modules())
    how = "differentiated as the identity" if is_adaptive else "whose gradient is zero; give --straight-through"
    return SanityCheck.of(
        "steps without a gradient are attacked straight through",
        passed=is_adaptive,
        detail=f"the network uses {', '.join(steps)}, {how}",
    )


def _check_random(difference: float, draws: int) -> SanityCheck:
    detail = f"logits of the same batch differ by {difference:.1e} between two calls"
    if difference <= 1e-5:
        return SanityCheck.of("logits are not random", passed=True, detail=detail)
    how = f"; attacks take the mean of {draws} draws" if draws > 1 else "; give --eot 16"
    return SanityCheck.of("randomness is attacked through its expectation", passed=draws > 1, detail=detail + how)


@torch.no_grad()
def _check_logits(network: Model, x: Tensor, draws: int) -> list[SanityCheck]:
    logits = network(x)
    repeated = float((network(x) - logits).abs().max())
    single = float((torch.cat([network(sample[None]) for sample in x[:8]]) - logits[:8]).abs().max())
    sums = float((logits.sum(dim=1) - 1).abs().max())
    return [
        _check_random(repeated, draws),
        SanityCheck.of(
            "logits do not depend on batch neighbours",
            passed=single <= 1e-3,
            detail=f"logits of a sample differ by {single:.1e} between a batch of one and a larger batch",
        ),
        SanityCheck.of(
            "logits are not probabilities",
            passed=not (sums < 1e-4 and float(logits.min()) >= 0),
            detail=f"their sum differs from 1 by up to {sums:.1e}",
        ),
    ]


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
