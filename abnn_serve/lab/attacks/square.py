"""Square: random search in the Linf ball with queries alone (Andriushchenko et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Model, as_images, margins
from abnn_serve.lab.attacks.queries import QueryAttack
from abnn_serve.lab.attacks.regions import ball

# The paper's schedule: the squares' area is halved at each of these counts of 10,000 queries.
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Square(QueryAttack):
    """Stripes of +-eps, then squares of +-eps at random positions, each kept if it lowers the margin.

    Attributes:
        p_init: area of the first squares as a share of the image's, in (0, 1].
    """

    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super(Square, self).__post_init__()
        if not 0 < self.p_init <= 1:
            raise ConfigError(f"Square has p_init {self.p_init}, expected a share of the area in (0, 1]")

    @torch.no_grad()
    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """See `Attack`; the squares of a clip's frames share a position."""
        shape = x.shape
        model, x = as_images(model, x)
        region = ball("Linf", self.eps)
        signs = _signs((len(x), x.shape[1], 1, x.shape[3]), generator).to(x)
        best = region.project(x, x + self.eps * signs)
        lowest = -margins(model(best), y)
        for query in range(1, self.queries):
            active = (lowest > 0).nonzero().flatten() if early_stop else torch.arange(len(x), device=x.device)
            if not len(active):
                break
            side = max(1, round((self._share(query) * x.shape[2] * x.shape[3]) ** 0.5))
            x_adv = self._add_square(x[active], best[active], min(side, *x.shape[2:]), generator)
            x_adv = region.project(x[active], x_adv)
            margin = -margins(model(x_adv), y[active])
            better = margin < lowest[active]
            best[active[better]], lowest[active[better]] = x_adv[better], margin[better]
        return best.view(shape)

    def _share(self, query: int) -> float:
        position = query * 10_000 / self.queries
        return float(self.p_init / 2 ** sum(position > bound for bound in _HALVED_AT))

    def _add_square(self, x: Tensor, x_adv: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """`x_adv` with one square for each sample, at x +- eps with a random sign for each channel."""
        rows = _corners(x.shape[2] - side, len(x), generator) + torch.arange(side)
        columns = _corners(x.shape[3] - side, len(x), generator) + torch.arange(side)
        inside = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool)
        inside[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]] = True
        signs = _signs((len(x), x.shape[1], 1, 1), generator).to(x)
        return torch.where(inside.to(x.device), x + self.eps * signs, x_adv)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


def _corners(last: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, last + 1, (count, 1), generator=generator)
