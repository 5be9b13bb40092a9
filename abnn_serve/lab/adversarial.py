"""Adversarial training: the images of a step, crafted against the network as it is (Madry et al., ICLR 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abnn_serve.lab.attacks.base import Model, ascend, cross_entropy, evaluating
from abnn_serve.lab.attacks.regions import Linf
from abnn_serve.lab.recipes import Recipe


def craft(recipe: Recipe, network: Model, x: Tensor, y: Tensor, done: float, generator: torch.Generator) -> Tensor:
    """`x` moved against the network in eval mode, as the recipe says; `x` itself for a recipe on clean data.

    Args:
        recipe: its attack.
        network: gives logits; left in the mode it was in.
        x: float (N, 3, H, W) in [0, 1].
        y: int64 (N,).
        done: share of the training that is over, in [0, 1], for the ramp of the budget.
        generator: of the random start.
    """
    if not recipe.attack_steps:
        return x
    eps = recipe.attack_eps * (min(1.0, done / recipe.eps_ramp) if recipe.eps_ramp else 1.0)
    region, sizes = Linf(eps if recipe.attack_projected else math.inf), [recipe.step_size * eps] * recipe.attack_steps
    with evaluating(network):
        start = Linf(recipe.attack_noise * eps).start(x, generator)
        return ascend(network, x, y, start, region, loss=cross_entropy(y), sizes=sizes, stop=False).detach()
