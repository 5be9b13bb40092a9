"""RayS: a search of directions with answers alone, no scores (Chen & Gu, KDD 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.lab.attacks.base import Model, as_images
from abnn_serve.lab.attacks.queries import QueryAttack
from abnn_serve.lab.attacks.regions import ball

_TOLERANCE = 0.1 / 255  # of a radius, in units of [0, 1] pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class RayS(QueryAttack):
    """Looks for the direction of signs in which the least Linf change alters the class; scores are not used.

    All values change by the radius, in the direction of their sign. Blocks of signs are turned, half the image first,
    then ever smaller ones; a turned block is kept if the answer is still wrong at the current radius, which a binary
    search then shrinks. The search of a sample ends when its radius is within eps.
    """

    @torch.no_grad()
    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:  # noqa: ARG002
        """See `Attack`; deterministic. Without `early_stop` it uses all queries."""
        shape = x.shape
        model, x = as_images(model, x)
        search = _Search(model, x, y, self.queries)
        target = self.eps if early_stop else -1.0
        search.turn(slice(0, 0), search.active(target))
        for block in _blocks(x[0].numel()):
            active = search.active(target)
            if not len(active):
                break
            search.turn(block, active)
        return ball("Linf", self.eps).project(x, search.best()).view(shape)


def _blocks(values: int) -> list[slice]:
    """Halves of an image, quarters, and so on to single values."""
    blocks, count = [], 1
    while count < 2 * values:
        size = -(-values // count)
        blocks += [slice(start, min(start + size, values)) for start in range(0, values, size)]
        count *= 2
    return blocks


class _Search:
    """The smallest known radius of each sample, the signs of its direction, and the queries it has used."""

    def __init__(self, model: Model, x: Tensor, y: Tensor, queries: int) -> None:
        self._model, self._x, self._y, self._queries = model, x, y, queries
        self._signs = torch.ones_like(x).flatten(1)
        self._radius = torch.full((len(x),), torch.inf, device=x.device)
        self._used = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def active(self, target: float) -> Tensor:
        """Samples with queries left and a radius above `target`, by index."""
        return ((self._used < self._queries) & (self._radius > target)).nonzero().flatten()

    def turn(self, block: slice, index: Tensor) -> None:
        """Turn a block of signs, and keep it for the samples that are then still misclassified at their radius."""
        signs = self._signs[index]
        signs[:, block] *= -1
        high = self._radius[index].clamp_max(1.0)
        wrong = self._is_wrong(index, signs, high)
        index, signs, high = index[wrong], signs[wrong], high[wrong]
        low = torch.zeros_like(high)
        searching = torch.arange(len(index), device=index.device)
        while len(searching):
            middle = (low[searching] + high[searching]) / 2
            wrong = self._is_wrong(index[searching], signs[searching], middle)
            high[searching] = torch.where(wrong, middle, high[searching])
            low[searching] = torch.where(wrong, low[searching], middle)
            left = (high - low > _TOLERANCE) & (self._used[index] < self._queries)
            searching = left.nonzero().flatten()
        better = high < self._radius[index]
        self._radius[index[better]], self._signs[index[better]] = high[better], signs[better]

    def best(self) -> Tensor:
        """The image at each sample's radius; where no radius is known, at 1."""
        return self._at(torch.arange(len(self._x), device=self._x.device), self._signs, self._radius.clamp_max(1.0))

    def _at(self, index: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
        x = self._x[index]
        return (x + radius[:, None, None, None] * signs.view(x.shape)).clamp(0, 1)

    def _is_wrong(self, index: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
        if not len(index):
            return torch.zeros(0, dtype=torch.bool, device=index.device)
        self._used[index] += 1
        wrong: Tensor = self._model(self._at(index, signs, radius)).argmax(dim=1) != self._y[index]
        return wrong
