"""Sanity checks of a network alone: gradients, determinism, independence of batch neighbours, and logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abnn_serve.card import SanityCheck
from abnn_serve.evaluation.gradient_check import TOLERANCE, gradient_error
from abnn_serve.lab.attacks.adaptive import StraightThroughNetwork, steps_without_gradient
from abnn_serve.lab.attacks.base import Model, ascend, cross_entropy, evaluating
from abnn_serve.lab.attacks.regions import Linf
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.batches import to_input


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
    detail = f"logits of the same batch differ by {difference:.2g} between two calls"
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
            detail=f"logits of a sample differ by {single:.2g} between a batch of one and a larger batch",
        ),
        SanityCheck.of(
            "logits are not probabilities",
            passed=not (sums < 1e-4 and float(logits.min()) >= 0),
            detail=f"their sum differs from 1 by up to {sums:.2g}",
        ),
    ]
