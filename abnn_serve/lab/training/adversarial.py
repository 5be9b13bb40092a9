"""Adversarial examples for one training step, crafted against the current network (Madry et al., ICLR 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from abnn_serve.lab.attacks.base import EvalMode, Loss, Model, ascend, cross_entropy
from abnn_serve.lab.attacks.regions import Linf, uniform
from abnn_serve.lab.training.distributed import ALONE, Workers
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.terms import kl, nuclear, nuclear_weight


def craft(
    recipe: Recipe,
    network: Model,
    x: Tensor,
    y: Tensor,
    progress: float,
    generator: torch.Generator,
    *,
    step: int = 1,
    workers: Workers = ALONE,
    view: Callable[[Tensor], Tensor] = lambda images: images,
    eval_mode: EvalMode | None = None,
) -> Tensor:
    """Adversarial examples for `x`, crafted in eval mode as `recipe` says; `x` itself for a recipe on clean data.

    Args:
        recipe: sets the attack, its budget and its loss.
        network: returns logits; its mode is restored.
        x: float (N, 3, H, W) in [0, 1].
        y: int64 (N,).
        progress: elapsed share of the training, in [0, 1], for the ramp of the budget.
        generator: source of the random start.
        step: number of the batch; NuAT's attack alternates between two losses.
        workers: the processes that train together; `x` is this one's share of a batch.
        view: what the network sees of the images; the attack differentiates it.
        eval_mode: of `network`, to use again in every step; None makes one.
    """
    if not recipe.attack_steps:
        return x
    eps = recipe.attack_eps * (min(1.0, progress / recipe.eps_ramp) if recipe.eps_ramp else 1.0)
    region = Linf(eps if recipe.attack_projected else math.inf)
    step_sizes = [recipe.relative_step_size * eps] * recipe.attack_steps
    with (eval_mode or EvalMode(network))():
        start = _start(recipe, x, recipe.attack_noise * eps, generator, workers)
        seen: Model = lambda images: network(view(images))  # noqa: E731
        loss = _loss(recipe, seen, x, y, progress, step)
        return ascend(seen, x, y, start, region, loss=loss, step_sizes=step_sizes, early_stop=False).detach()


def _start(recipe: Recipe, x: Tensor, half_width: float, generator: torch.Generator, workers: Workers) -> Tensor:
    whole = x.new_empty((len(x) * workers.count, *x.shape[1:]))
    noise = workers.share(uniform(whole, generator))  # drawn for the whole batch, as one process would
    if recipe.attack_start == "sign":
        return (x + half_width * (0.5 - noise).sign()).clamp(0, 1)
    return Linf(half_width).project(x, x + half_width * (2 * noise - 1))


def _loss(recipe: Recipe, network: Model, x: Tensor, y: Tensor, progress: float, step: int) -> Loss:
    """The loss that the attack maximises, one value for each image."""
    uses_nuclear = bool(recipe.nuclear_weight) and step % 2 == 0
    if recipe.attack_loss == "ce" and not uses_nuclear:
        return cross_entropy(y)
    with torch.no_grad():
        clean = network(x)
    base: Loss = (lambda logits, chosen: kl(clean[chosen], logits)) if recipe.attack_loss == "kl" else cross_entropy(y)
    if not uses_nuclear:
        return base
    weight = nuclear_weight(recipe, progress) / len(x)  # summed over the batch, the term counts once
    return lambda logits, chosen: base(logits, chosen) + weight * nuclear(clean[chosen], logits)
