"""Adversarial training: the images of a step, crafted against the network as it is (Madry et al., ICLR 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abnn_serve.lab.attacks.base import Loss, Model, ascend, cross_entropy, evaluating
from abnn_serve.lab.attacks.regions import Linf, uniform
from abnn_serve.lab.training.recipes import Recipe
from abnn_serve.lab.training.terms import kl, nuclear, nuclear_weight


def craft(
    recipe: Recipe, network: Model, x: Tensor, y: Tensor, done: float, generator: torch.Generator, *, step: int = 1
) -> Tensor:
    """`x` moved against the network in eval mode, as the recipe says; `x` itself for a recipe on clean data.

    Args:
        recipe: its attack.
        network: gives logits; left in the mode it was in.
        x: float (N, 3, H, W) in [0, 1].
        y: int64 (N,).
        done: share of the training that is over, in [0, 1], for the ramp of the budget.
        generator: of the random start.
        step: number of the batch: NuAT's attack alternates between two losses.
    """
    if not recipe.attack_steps:
        return x
    eps = recipe.attack_eps * (min(1.0, done / recipe.eps_ramp) if recipe.eps_ramp else 1.0)
    region, step_sizes = (
        Linf(eps if recipe.attack_projected else math.inf),
        [recipe.relative_step_size * eps] * recipe.attack_steps,
    )
    with evaluating(network):
        start = _start(recipe, x, recipe.attack_noise * eps, generator)
        loss = _loss(recipe, network, x, y, done, step)
        return ascend(network, x, y, start, region, loss=loss, step_sizes=step_sizes, early_stop=False).detach()


def _start(recipe: Recipe, x: Tensor, half_width: float, generator: torch.Generator) -> Tensor:
    if recipe.attack_start == "uniform":
        return Linf(half_width).start(x, generator)
    return (x + half_width * (0.5 - uniform(x, generator)).sign()).clamp(0, 1)


def _loss(recipe: Recipe, network: Model, x: Tensor, y: Tensor, done: float, step: int) -> Loss:
    """What the attack maximises: for each image, up to a term that all share."""
    uses_nuclear = bool(recipe.nuclear_weight) and step % 2 == 0
    if recipe.attack_loss == "ce" and not uses_nuclear:
        return cross_entropy(y)
    with torch.no_grad():
        clean = network(x)
    base: Loss = (lambda logits, chosen: kl(clean[chosen], logits)) if recipe.attack_loss == "kl" else cross_entropy(y)
    if not uses_nuclear:
        return base
    weight = nuclear_weight(recipe, done) / len(x)  # summed over the batch, the term counts once
    return lambda logits, chosen: base(logits, chosen) + weight * nuclear(clean[chosen], logits)
