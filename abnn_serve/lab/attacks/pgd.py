"""FGSM and PGD: steps along the gradient of the loss, inside a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Loss, LossName, Model, ascend, cross_entropy, margin, margins
from abnn_serve.lab.attacks.regions import ball


@dataclass(frozen=True, slots=True, kw_only=True)
class FGSM(Attack):
    """One step of length eps along the sign of the gradient (Goodfellow, Shlens & Szegedy, ICLR 2015)."""

    @property
    def name(self) -> str:
        """FGSM."""
        return "FGSM"

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:  # noqa: ARG002
        """See `Attack`."""
        return ascend(
            model, x, y, x, ball("Linf", self.eps), loss=cross_entropy(y), step_sizes=[self.eps], early_stop=early_stop
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent on the classifier, ascent on its loss (Madry et al., ICLR 2018).

    Attributes:
        norm: Linf or L2.
        steps: of the iteration, at least 1.
        step_size: of one step; None is 2.5 eps / steps.
        decay: `constant` steps, or along a half `cosine`, from twice that size to nothing.
        restarts: attempts, each from another start; the one of the largest margin is kept. With the margin loss each
            goes for another wrong class, the likeliest first (Gowal et al. 2019).
        random_start: begin anywhere in the ball; else at x.
        loss: `ce`, cross-entropy; `margin`, a difference of two logits, which does not vanish where the model is sure.
    """

    norm: Norm = "Linf"
    steps: int = 20
    step_size: float | None = None
    decay: Literal["constant", "cosine"] = "constant"
    restarts: int = 1
    random_start: bool = True
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        super(PGD, self).__post_init__()
        if self.norm not in ("Linf", "L2"):
            raise ConfigError(f"PGD's norm is {self.norm!r}, expected Linf or L2")
        if self.steps < 1 or self.restarts < 1:
            raise ConfigError(f"PGD has {self.steps} steps and {self.restarts} restarts, expected at least 1 of each")

    @property
    def name(self) -> str:
        """PGD, its steps, its loss and its restarts."""
        loss = "" if self.loss == "ce" else f"-{self.loss}"
        return f"PGD-{self.steps}{loss}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    @property
    def step_sizes(self) -> list[float]:
        """Length of each step."""
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        if self.decay == "constant":
            return [size] * self.steps
        return [size * (1 + math.cos(math.pi * step / self.steps)) for step in range(self.steps)]

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """See `Attack`."""
        region, found = ball(self.norm, self.eps), x.clone()
        best = torch.full((len(x),), -torch.inf, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for restart in range(self.restarts):
            x_left, y_left = x[active], y[active]
            start = region.start(x_left, generator) if self.random_start else x_left
            loss = self._loss(model, x_left, y_left, restart)
            x_adv = ascend(
                model, x_left, y_left, start, region, loss=loss, step_sizes=self.step_sizes, early_stop=early_stop
            )
            with torch.no_grad():
                reached = margins(model(x_adv), y_left)
            better = ~(reached <= best[active])
            found[active[better]], best[active[better]] = x_adv[better], reached[better]
            if early_stop:
                active = active[reached <= 0]
            if not len(active):
                break
        return found

    def _loss(self, model: Model, x: Tensor, y: Tensor, restart: int) -> Loss:
        if self.loss == "ce":
            return cross_entropy(y)
        if restart == 0:
            return margin(y)
        with torch.no_grad():
            wrong = model(x).scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
        return margin(y, wrong[:, restart % wrong.shape[1]])
