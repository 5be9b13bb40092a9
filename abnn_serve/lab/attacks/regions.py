"""Sets of allowed perturbations: the Linf ball, the L2 ball and an occluded area, each within [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from abnn_serve.card import Norm


class Region(Protocol):
    """The images that an attacker may replace x with; images are float (N, 3, [T,] H, W) in [0, 1]."""

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random member of the region around x."""
        ...

    def step(self, x_adv: Tensor, gradient: Tensor, size: Tensor | float) -> Tensor:
        """`x_adv` after a step of steepest ascent of length `size` in the region's norm; call `project` next."""
        ...

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The nearest member of the region around x."""
        ...

    def of(self, index: Tensor) -> Region:
        """The region for a part of the batch, by index, int64 (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Linf:
    """No value changes by more than `eps`."""

    eps: float

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in the ball."""
        return self.project(x, x + self.eps * (2 * uniform(x, generator) - 1))

    def step(self, x_adv: Tensor, gradient: Tensor, size: Tensor | float) -> Tensor:
        """Along the sign of the gradient."""
        return x_adv + size * gradient.sign()

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Clip to the ball, then to [0, 1]."""
        return torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0, 1)

    def of(self, index: Tensor) -> Linf:  # noqa: ARG002
        """The same for every sample."""
        return self


@dataclass(frozen=True, slots=True)
class L2:
    """The Euclidean norm of the change is at most `eps`."""

    eps: float

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in the ball: a random direction, at a distance whose distribution fills the volume."""
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        volume = uniform(_length(x), generator) ** (1 / x[0].numel())
        return self.project(x, x + noise / _length(noise) * volume * self.eps)

    def step(self, x_adv: Tensor, gradient: Tensor, size: Tensor | float) -> Tensor:
        """Along the gradient, scaled to unit length for each sample."""
        return x_adv + size * gradient / _length(gradient).clamp_min(1e-12)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Clip to [0, 1], then shrink towards x: x is in [0, 1], so the shrunk image is too."""
        change = x_adv.clamp(0, 1) - x
        return x + change * (self.eps / _length(change).clamp_min(1e-12)).clamp_max(1)

    def of(self, index: Tensor) -> L2:  # noqa: ARG002
        """The same for every sample."""
        return self


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Only pixels in the mask change, to any value; the mask is bool (N, 1, H, W), or (N, 1, 1 or T, H, W) of clips."""

    mask: Tensor

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform noise in the mask."""
        return self.project(x, uniform(x, generator))

    def step(self, x_adv: Tensor, gradient: Tensor, size: Tensor | float) -> Tensor:
        """Along the sign of the gradient."""
        return x_adv + size * gradient.sign()

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Clip to [0, 1] in the mask, restore x outside."""
        return torch.where(self.mask, x_adv.clamp(0, 1), x)

    def of(self, index: Tensor) -> Occlusion:
        """Those samples' masks."""
        return Occlusion(self.mask[index])


def ball(norm: Norm, eps: float) -> Linf | L2:
    """The ball of a norm, Linf or L2."""
    return Linf(eps) if norm == "Linf" else L2(eps)


def uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise in [0, 1) of x's shape, on x's device.

    It is drawn on the generator's device: attacks use the CPU's, so that all devices draw the same; training does not.
    """
    return torch.rand(x.shape, generator=generator, device=generator.device).to(x)


def _length(change: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return length.view(-1, *[1] * (change.dim() - 1))
