"""Attack one half of a mixture: its rule may hide the gradient of a half, which the half alone does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.mixture import MixtureNetwork
from abnn_serve.lab.attacks.base import Attack, Model, Passes


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHalf(Attack):
    """Another attack made on one half of a `MixtureNetwork`, with that half's gradients.

    Attributes:
        attack: the attack; its budget is this one's.
        half: `robust` or `clean`.
    """

    attack: Attack
    half: Literal["robust", "clean"]

    @property
    def name(self) -> str:
        """Such as PGD-20-margin on the robust half."""
        return f"{self.attack.name} on the {self.half} half"

    @property
    def norm(self) -> Norm:
        return self.attack.norm

    @property
    def passes(self) -> Passes:
        return self.attack.passes

    def passes_if_broken(self, *, early_stop: bool) -> Passes:  # noqa: ARG002
        """All, as the half alone may err sooner than the mixture."""
        return self.attack.passes

    @property
    def parameters(self) -> dict[str, float | int | str | bool | None]:
        """Those of the attack, and the half."""
        return {**self.attack.parameters, "half": self.half}

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:  # noqa: ARG002
        if not isinstance(model, MixtureNetwork):
            raise ConfigError(f"{self.name} needs a mixture; make one with `abnn mix`")
        half = model.robust if self.half == "robust" else model.clean
        return self.attack.perturb(half, x, y, generator, early_stop=False)
