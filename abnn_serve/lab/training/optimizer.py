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
            turned = {}
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
                    turned[weight] = change.flatten(1)
                else:
                    weight.sub_(change, alpha=group["lr"])
            for weight, matrix in zip(turned, orthogonal_all(list(turned.values())), strict=True):
                norm = self.state[weight]["norm"]
                weight.sub_(matrix.reshape(weight.shape).mul_(group["lr"] * norm / len(weight) ** 0.5))
                weight.mul_(norm / weight.norm())


def orthogonal_all(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonal` of each matrix; on CUDA in one batch for each shape, which starts fewer kernels."""
    if not matrices or matrices[0].device.type != "cuda":
        return [orthogonal(matrix) for matrix in matrices]
    return in_batches(matrices)


def in_batches(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonal` of each matrix, in one batch for each shape."""
    shapes: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(index)
    turned = list(matrices)
    for indices in shapes.values():
        batch = orthogonal(torch.stack([matrices[index] for index in indices]))
        for index, matrix in zip(indices, batch.unbind(), strict=True):
            turned[index] = matrix
    return turned


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix, or each of a batch (..., m, n), with singular values brought near one by Newton-Schulz iterations."""
    wide = matrix.size(-2) <= matrix.size(-1)
    x: Tensor = matrix if wide else matrix.mT
    norm = x.norm() if x.dim() == 2 else torch.linalg.matrix_norm(x, keepdim=True)
    x = x / (norm + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
