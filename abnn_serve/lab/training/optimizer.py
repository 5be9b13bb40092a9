"""Optimisers by name: SGD, and Muon for convolutions with SGD for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from abnn_serve.lab.training.recipe import Recipe

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at zero, singular values end in about [0.7, 1.2]
_ITERATIONS = 3


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of `recipe` for what learns; weights of two or more dimensions decay."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kernels = [p for p in learning if p.dim() >= 4 and recipe.optimizer == "muon"]
    matrices = [p for p in learning if p.dim() > 1 and not any(p is kernel for kernel in kernels)]
    vectors = [p for p in learning if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return ConvMuon([{"params": kernels, "orthogonal": True}, *groups], recipe.lr, recipe.momentum)


class ConvMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for convolutions; SGD with Nesterov momentum for the groups not marked `orthogonal`.

    A step of a convolution is its momentum with all singular values brought near one, and the weight keeps the norm
    that it began with: `lr` is the relative length of a step, which suits layers that a normalisation follows.
    torch.optim.Muon takes matrices only and computes in bfloat16, which most CPUs emulate.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step from the gradients at hand."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                    state["norm"] = weight.norm()
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
                change = gradient.add(state["momentum_buffer"], alpha=group["momentum"])
                if group["orthogonal"]:
                    change = orthogonal(change.flatten(1)).reshape(change.shape)
                    weight.sub_(change.mul_(group["lr"] * state["norm"] / len(weight) ** 0.5))
                    weight.mul_(state["norm"] / weight.norm())
                else:
                    weight.sub_(change, alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought near one by Newton-Schulz iterations."""
    wide = matrix.size(0) <= matrix.size(1)
    x: Tensor = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T
