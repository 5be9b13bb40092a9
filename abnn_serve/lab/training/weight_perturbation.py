"""Adversarial weight perturbation (Wu, Xia & Wang, NeurIPS 2020): gradients are taken at perturbed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from abnn_serve.lab.training.distributed import ALONE, Workers

START = 0.05  # share of the training without it; the authors' 10 of 200 epochs


@contextmanager
def perturbed_weights(
    network: nn.Module, size: float, progress: float, loss: Callable[[], Tensor], workers: Workers = ALONE
) -> Iterator[None]:
    """Move the weights along the gradient of `loss` inside the context, and restore them after it.

    Args:
        network: its weights of two or more dimensions that learn are moved; buffers are left as they are.
        size: length of the move as a share of each weight's norm; the authors' gamma, 0.005 to 0.01. 0 does nothing.
        progress: share of the training that is over; before `START` nothing is moved.
        loss: a training loss at the current weights.
        workers: the processes that train together; all move the weights alike.
    """
    if not size or progress < START:
        yield
        return
    weights = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    buffers = [buffer.clone() for buffer in network.buffers()]
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    workers.average(gradient for gradient in gradients if gradient is not None)
    moves = [
        torch.zeros_like(weight) if gradient is None else _move(weight, gradient, size)
        for weight, gradient in zip(weights, gradients, strict=True)
    ]
    originals = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)


def _move(weight: Tensor, gradient: Tensor, size: float) -> Tensor:
    scale: Tensor = size * weight.detach().norm() / gradient.norm().clamp_min(1e-20)
    return gradient * scale
