"""An ensemble of attacks: each attacks the samples that the attacks before it did not break."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Model, Passes, is_correct
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.attacks.square import Square


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble(Attack):
    """The worst case over `attacks` for each sample.

    Attributes:
        attacks: run in order; all have the ensemble's eps, and one norm.
        called: name in reports, before the attacks' names.
    """

    attacks: tuple[Attack, ...]
    called: str = "worst case"

    def __post_init__(self) -> None:
        if {(attack.eps, attack.norm) for attack in self.attacks} != {(self.eps, self.attacks[0].norm)}:
            raise ConfigError("an ensemble's attacks must share one eps and one norm")

    @property
    def name(self) -> str:
        """Such as "worst case of PGD-20, Square-1000"."""
        return f"{self.called} of {', '.join(attack.name for attack in self.attacks)}"

    @property
    def norm(self) -> Norm:
        """The attacks' norm."""
        return self.attacks[0].norm

    @property
    def passes(self) -> Passes:
        """The sum of the attacks'."""
        return sum((attack.passes for attack in self.attacks), Passes())

    def passes_if_broken(self, *, early_stop: bool) -> Passes:
        """Those of the first attack."""
        return self.attacks[0].passes_if_broken(early_stop=early_stop)

    @property
    def parameters(self) -> dict[str, float | int | str | bool | None]:
        """The attacks' parameters, prefixed with the attack's name."""
        return {f"{attack.name}: {key}": value for attack in self.attacks for key, value in attack.parameters.items()}

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """See `Attack`; each attack runs only on unbroken samples, even without `early_stop`."""
        x_adv = x.clone()
        active = torch.arange(len(x), device=x.device)
        for attack in self.attacks:
            x_adv[active] = attack.perturb(model, x[active], y[active], generator, early_stop=early_stop)
            active = active[is_correct(model, x_adv[active], y[active])]
            if not len(active):
                break
        return x_adv


def worst_case(eps: float = 8 / 255, *, queries: int = 1000) -> Ensemble:
    """The default ensemble: PGD on cross-entropy, PGD on the margin with nine wrong classes in turn, and Square."""
    return Ensemble(
        eps=eps,
        attacks=(
            PGD(eps=eps, steps=40, step_size=eps / 8, decay="cosine", restarts=2),
            PGD(eps=eps, steps=40, step_size=eps / 8, decay="cosine", restarts=9, loss="margin"),
            Square(eps=eps, queries=queries),
        ),
    )
