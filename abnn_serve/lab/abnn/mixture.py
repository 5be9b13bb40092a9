"""A robust and an accurate classifier mixed into one, without training (Bai et al. 2024, MixedNUTS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abnn_serve.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRule:
    """How the logits of two classifiers become one answer.

    With h the robust half's logits, standardised over the classes, and g the clean half's:

        u = GELU(h + shift),  m = scale * |u|^power * sign(u)
        answer = log((1 - share) softmax(g) + share softmax(m))

    A robust classifier is surer where it is right than where it is attacked; the map enlarges that difference, so that
    the clean half decides only where the robust half is unsure.

    Attributes:
        scale: at least 0.
        power: at least 1.
        shift: in standard deviations of the logits.
        share: the robust half's, in [0.5, 1): from 0.5 on, the clean half cannot overrule a sure robust half.
    """

    scale: float
    power: float
    shift: float
    share: float

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and self.power >= 1 and math.isfinite(self.scale + self.power + self.shift)):
            raise ConfigError(
                f"the mixture has scale {self.scale}, power {self.power} and shift {self.shift}, "
                "expected scale >= 0, power >= 1 and finite numbers"
            )
        if not 0.5 <= self.share < 1:
            raise ConfigError(f"the robust half's share is {self.share}, expected at least 0.5 and less than 1")

    def __call__(self, robust: Tensor, clean: Tensor) -> Tensor:
        """Logits of both halves, each float (N, classes), to log-probabilities, (N, classes)."""
        u = nn.functional.gelu(nn.functional.layer_norm(robust, robust.shape[-1:]) + self.shift)
        sharpened = self.scale * u.abs().pow(self.power) * u.sign()
        parts = (
            clean.log_softmax(dim=-1) + math.log(1 - self.share),
            sharpened.log_softmax(dim=-1) + math.log(self.share),
        )
        return torch.stack(parts).logsumexp(dim=0)


class MixtureNetwork(nn.Module):
    """Two classifiers that see the same input, and the rule that joins their logits.

    forward(x): float (N, 3, [T,] H, W) in [0, 1] to log-probabilities (N, classes). Gradients pass through both halves.
    """

    def __init__(self, robust: nn.Module, clean: nn.Module, rule: MixtureRule) -> None:
        super().__init__()
        self.robust = robust
        self.clean = clean
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self.robust(x), self.clean(x))
