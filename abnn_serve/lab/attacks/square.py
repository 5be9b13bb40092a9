"""Square: random search with queries only (Andriushchenko et al., ECCV 2020), in the Linf ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Model, as_images, margins
from abnn_serve.lab.attacks.regions import ball

# Share of the area of a square, halved at each of these counts of 10,000 queries (the paper's schedule).
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Square(Attack):
    """Stripes of +-eps, then squares of +-eps at random places, kept where the margin shrinks.

    Attributes:
        queries: images that are asked about for each sample.
        p_init: share of the area of the first squares.
    """

    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super(Square, self).__post_init__()
        if self.queries < 1 or not 0 < self.p_init <= 1:
            raise ConfigError(
                f"Square has {self.queries} queries and p_init {self.p_init}, expected >= 1 and in (0, 1]"
            )

    @property
    def name(self) -> str:
        """Square and its queries."""
        return f"Square-{self.queries}"

    @property
    def needs_gradient(self) -> bool:
        """Queries are enough."""
        return False

    @torch.no_grad()
    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """See `Attack`; the squares of a clip's frames share a place."""
        shape = x.shape
        model, x = as_images(model, x)
        region = ball("Linf", self.eps)
        signs = _signs((len(x), x.shape[1], 1, x.shape[3]), generator).to(x)
        found = region.project(x, x + self.eps * signs)
        lowest = -margins(model(found), y)
        for query in range(1, self.queries):
            active = (lowest > 0).nonzero().flatten() if early_stop else torch.arange(len(x), device=x.device)
            if not len(active):
                break
            side = max(1, round((self._share(query) * x.shape[2] * x.shape[3]) ** 0.5))
            x_adv = self._square(x[active], found[active], min(side, *x.shape[2:]), generator)
            x_adv = region.project(x[active], x_adv)
            margin = -margins(model(x_adv), y[active])
            better = active[margin < lowest[active]]
            found[better] = x_adv[margin < lowest[active]]
            lowest[better] = margin[margin < lowest[active]]
        return found.view(shape)

    def _share(self, query: int) -> float:
        at = query * 10_000 / self.queries
        return float(self.p_init / 2 ** sum(at > bound for bound in _HALVED_AT))

    def _square(self, x: Tensor, found: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """`found` with one square of each sample and channel at x +- eps."""
        rows = _corners(x.shape[2] - side, len(x), generator) + torch.arange(side)
        columns = _corners(x.shape[3] - side, len(x), generator) + torch.arange(side)
        inside = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool)
        inside[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]] = True
        signs = _signs((len(x), x.shape[1], 1, 1), generator).to(x)
        return torch.where(inside.to(x.device), x + self.eps * signs, found)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


def _corners(last: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, last + 1, (count, 1), generator=generator)
