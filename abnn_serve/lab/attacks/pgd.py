"""FGSM and PGD: steps along the gradient of the loss within a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Loss, LossName, Model, Passes, ascend, cross_entropy, margin, margins
from abnn_serve.lab.attacks.regions import ball


@dataclass(frozen=True, slots=True, kw_only=True)
class FGSM(Attack):
    """One step of length eps along the sign of the gradient (Goodfellow, Shlens & Szegedy, ICLR 2015)."""

    @property
    def name(self) -> str:
        return "FGSM"

    @property
    def passes(self) -> Passes:
        return Passes(gradients=1)

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:  # noqa: ARG002
        return ascend(
            model, x, y, x, ball("Linf", self.eps), loss=cross_entropy(y), step_sizes=[self.eps], early_stop=early_stop
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent: steps along the gradient, projected to a ball (Madry et al., ICLR 2018).

    Attributes:
        norm: Linf or L2.
        steps: number of steps, at least 1.
        step_size: length of a step, in units of [0, 1] pixels; None means 2.5 eps / steps.
        decay: `constant` steps, or `cosine`: they shrink along a half cosine from twice `step_size` to zero.
        restarts: number of attempts, of which the one with the largest margin is kept. With the margin loss, each
            attempt targets another wrong class, the likeliest first (Gowal et al. 2019).
        random_start: start at a random point of the ball; otherwise at x.
        loss: `ce`, cross-entropy; or `margin`, a difference of two logits, whose gradient does not vanish where the
            model is confident.
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
        """Such as PGD-40-margin x9: steps, loss and restarts."""
        loss = "" if self.loss == "ce" else f"-{self.loss}"
        return f"PGD-{self.steps}{loss}" + (f" x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> Passes:
        return Passes(gradients=self.steps * self.restarts, queries=self.restarts)

    @property
    def step_sizes(self) -> list[float]:
        """Length of each step, in units of [0, 1] pixels."""
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        if self.decay == "constant":
            return [size] * self.steps
        return [size * (1 + math.cos(math.pi * step / self.steps)) for step in range(self.steps)]

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        region, best = ball(self.norm, self.eps), x.clone()
        largest = torch.full((len(x),), -torch.inf, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for restart in range(self.restarts):
            x_clean, y_true = x[active], y[active]
            start = region.start(x_clean, generator) if self.random_start else x_clean
            loss = self._loss(model, x_clean, y_true, restart)
            x_adv = ascend(
                model, x_clean, y_true, start, region, loss=loss, step_sizes=self.step_sizes, early_stop=early_stop
            )
            with torch.no_grad():
                margin_adv = margins(model(x_adv), y_true)
            better = ~(margin_adv <= largest[active])
            best[active[better]], largest[active[better]] = x_adv[better], margin_adv[better]
            if early_stop:
                active = active[margin_adv <= 0]
            if not len(active):
                break
        return best

    def _loss(self, model: Model, x: Tensor, y: Tensor, restart: int) -> Loss:
        if self.loss == "ce":
            return cross_entropy(y)
        if restart == 0:
            return margin(y)
        with torch.no_grad():
            wrong = model(x).scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
        return margin(y, wrong[:, restart % wrong.shape[1]])
