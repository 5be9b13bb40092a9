"""ROA: the rectangular occlusion attack (Wu, Tong & Vorobeychik, ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from abnn_serve.answer import rectangle
from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Model, Passes, ascend, cross_entropy
from abnn_serve.lab.attacks.regions import Occlusion

_GREY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ROA(Attack):
    """A rectangle of at most `eps` of the area at the position of the largest loss, then PGD on its pixels.

    Attributes:
        eps: share of the image's area, in (0, 1]; the paper uses 0.1.
        steps: number of PGD steps (the papers' t).
        step_size: length of a step, in units of [0, 1] pixels.
        search: `exhaustive` tries a grey rectangle at every position of the grid; `gradient` only at the `candidates`
            positions with the largest gradient under the rectangle.
        stride: of the grid, in pixels; the grid always includes the last row and column.
        candidates: number of positions that the gradient search tries.
        moving: in a clip, choose a position for each frame, by the gradient under it; otherwise all frames share one
            position. Needs the gradient search.
    """

    eps: float = 0.1
    steps: int = 5
    step_size: float = 0.125
    search: Literal["exhaustive", "gradient"] = "gradient"
    stride: int = 2
    candidates: int = 30
    moving: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise ConfigError(f"ROA's eps is {self.eps}, expected a share of the area in (0, 1], such as 0.1")
        if self.search not in ("exhaustive", "gradient"):
            raise ConfigError(f"ROA's search is {self.search!r}, expected exhaustive or gradient")
        if self.moving and self.search != "gradient":
            raise ConfigError("a moving ROA needs the gradient search; use search='gradient'")
        if min(self.steps, self.stride, self.candidates) < 1:
            raise ConfigError("ROA's steps, stride and candidates must each be at least 1")

    @property
    def name(self) -> str:
        """Such as ROA-10% t=5: area and steps."""
        return f"ROA-{self.eps:.0%} t={self.steps}" + (" moving" if self.moving else "")

    @property
    def norm(self) -> Norm:
        return "patch"

    @property
    def passes(self) -> Passes:
        """Without the exhaustive search, whose queries depend on the image's size."""
        return Passes(gradients=self.steps + 1, queries=self.candidates)

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        region = Occlusion(self._search_mask(model, x, y))
        start = region.start(x, generator)
        step_sizes = [self.step_size] * self.steps
        return ascend(model, x, y, start, region, loss=cross_entropy(y), step_sizes=step_sizes, early_stop=early_stop)

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        return rectangle(self.eps, height, width)

    def _search_mask(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """The mask of each sample's rectangle, bool (N, 1, H, W), or (N, 1, 1 or T, H, W) of clips."""
        sides = self._sides(*x.shape[-2:])
        grid = torch.cartesian_prod(
            *(_grid(length - side, self.stride) for length, side in zip(x.shape[-2:], sides, strict=True))
        ).to(x.device)
        candidates = grid.expand(len(x), 1, -1, -1)
        if self.moving or (self.search == "gradient" and len(grid) > self.candidates):
            gradient = self._gradient_under(model, x, y, sides)[:, :, grid[:, 0], grid[:, 1]]
            candidates = grid[gradient.topk(min(self.candidates, len(grid)), dim=2).indices]
        largest = torch.full((len(x),), -torch.inf, device=x.device)
        best = candidates[:, :, 0]
        for corners in candidates.unbind(dim=2):
            mask = _mask(corners, sides, x)
            with torch.no_grad():
                loss = cross_entropy(y)(model(torch.where(mask, _GREY, x)), torch.arange(len(x), device=x.device))
            best = torch.where((loss > largest)[:, None, None], corners, best)
            largest = torch.maximum(loss, largest)
        return _mask(best, sides, x)

    def _gradient_under(self, model: Model, x: Tensor, y: Tensor, sides: tuple[int, int]) -> Tensor:
        """Squared gradient summed under a rectangle at each corner, (N, F, H - h + 1, W - w + 1)."""
        x = x.detach().requires_grad_()
        loss = cross_entropy(y)(model(x), torch.arange(len(x), device=x.device))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        squares = gradient.square().sum(dim=1).view(len(x), -1, *x.shape[-2:])
        if not self.moving:
            squares = squares.sum(dim=1, keepdim=True)
        return nn.functional.avg_pool2d(squares, sides, stride=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch(ROA):
    """ROA with a rectangle of a given size; `eps` is its share of the area.

    Attributes:
        height, width: of the rectangle in pixels.
    """

    height: int
    width: int

    @property
    def name(self) -> str:
        """Such as patch-5x5 t=40: size and steps."""
        return f"patch-{self.height}x{self.width} t={self.steps}"

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def _sides(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002
        return self.sides


def _grid(last: int, stride: int) -> Tensor:
    return torch.tensor(sorted({*range(0, last + 1, stride), last}))


def _mask(corners: Tensor, sides: tuple[int, int], x: Tensor) -> Tensor:
    """Masks of rectangles with top left corners, int64 (N, F, 2), F being 1 or a clip's T; bool (N, 1, [F,] H, W)."""
    rows = torch.arange(x.shape[-2], device=x.device) - corners[..., :1]
    columns = torch.arange(x.shape[-1], device=x.device) - corners[..., 1:]
    in_rows, in_columns = (rows >= 0) & (rows < sides[0]), (columns >= 0) & (columns < sides[1])
    mask = in_rows[..., :, None] & in_columns[..., None, :]
    return mask if x.dim() == 4 else mask[:, None]
