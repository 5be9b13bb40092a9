"""Compare a model's gradient with finite differences, in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_STEP = 1e-6
_DIRECTIONS = 8
TOLERANCE = 0.3  # kinks and ties cause errors of up to 0.2, a detached path 0.4 and more


def gradient_error(model: nn.Module, x: Tensor) -> Tensor:
    """Relative error of the input gradient along a few random directions, for each sample.

    Autograd and central differences both differentiate a random combination of the logits. They disagree if a path
    from pixels to logits is detached, rounded or replaced.

    Args:
        model: returns logits; not changed.
        x: float (N, 3, [T,] H, W) in [0, 1].

    Returns:
        float64 (N,): norm of the difference over the larger of both norms; 1 where the gradient is zero.
    """
    model = copy.deepcopy(model).double().eval()
    x = x.detach().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weights = torch.randn(model(x).shape, generator=generator, dtype=torch.float64).to(x.device)
    x_adv = x.clone().requires_grad_()
    combined = (model(x_adv) * weights).sum()
    gradient = torch.autograd.grad(combined, x_adv, allow_unused=True)[0] if combined.requires_grad else None
    if gradient is None:
        return torch.ones(len(x), dtype=torch.float64)
    by_gradient, by_difference = [], []
    for _ in range(_DIRECTIONS):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        with torch.no_grad():
            ahead, behind = model(x + _STEP * direction), model(x - _STEP * direction)
        by_difference.append(((ahead - behind) * weights).sum(dim=1) / (2 * _STEP))
        by_gradient.append((gradient * direction).flatten(1).sum(dim=1))
    slopes, expected = torch.stack(by_gradient), torch.stack(by_difference)
    larger = torch.maximum(slopes.norm(dim=0), expected.norm(dim=0))
    return torch.where(larger > 0, (slopes - expected).norm(dim=0) / larger.clamp_min(1e-300), 1.0).cpu()
