"""Does a model's gradient say how its logits change? Compared with finite differences, in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_STEP = 1e-6
_DIRECTIONS = 8
TOLERANCE = 0.3  # kinks and ties of drawn images cost up to 0.2; a detached path 0.4 and more


def gradient_error(model: nn.Module, x: Tensor) -> Tensor:
    """Relative error of the input gradient along a few random directions, for each sample.

    A random mix of the logits is differentiated by autograd and by central differences. They agree where every path
    from pixels to logits carries its gradient; they do not where one is detached, rounded or replaced.

    Args:
        model: gives logits; not changed.
        x: float (N, 3, H, W) in [0, 1].

    Returns:
        float64 (N,): length of the difference over the larger length; 1 where the gradient is zero.
    """
    exact = copy.deepcopy(model).double().eval()
    x = x.detach().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weights = torch.randn(exact(x).shape, generator=generator, dtype=torch.float64).to(x.device)
    x_adv = x.clone().requires_grad_()
    mixed = (exact(x_adv) * weights).sum()
    gradient = torch.autograd.grad(mixed, x_adv, allow_unused=True)[0] if mixed.requires_grad else None
    if gradient is None:
        return torch.ones(len(x), dtype=torch.float64)
    claimed, measured = [], []
    for _ in range(_DIRECTIONS):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        with torch.no_grad():
            ahead, behind = exact(x + _STEP * direction), exact(x - _STEP * direction)
        measured.append(((ahead - behind) * weights).sum(dim=1) / (2 * _STEP))
        claimed.append((gradient * direction).flatten(1).sum(dim=1))
    ours, theirs = torch.stack(claimed), torch.stack(measured)
    larger = torch.maximum(ours.norm(dim=0), theirs.norm(dim=0))
    return torch.where(larger > 0, (ours - theirs).norm(dim=0) / larger.clamp_min(1e-300), 1.0).cpu()
