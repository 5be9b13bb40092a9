"""Several attacks as one: each is tried on the samples that the ones before it left right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abnn_serve.card import Norm
from abnn_serve.errors import ConfigError
from abnn_serve.lab.attacks.base import Attack, Model, is_correct
from abnn_serve.lab.attacks.pgd import PGD
from abnn_serve.lab.attacks.square import Square


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble(Attack):
    """The worst case over `attacks` for each sample; all of one budget."""

    attacks: tuple[Attack, ...]
    called: str = "worst case"

    def __post_init__(self) -> None:
        if {(attack.eps, attack.norm) for attack in self.attacks} != {(self.eps, self.attacks[0].norm)}:
            raise ConfigError("an ensemble's attacks must share one eps and one norm")

    @property
    def name(self) -> str:
        """What it is called, and of what."""
        return f"{self.called} of {', '.join(attack.name for attack in self.attacks)}"

    @property
    def norm(self) -> Norm:
        """The attacks' own."""
        return self.attacks[0].norm

    @property
    def parameters(self) -> dict[str, float | int | str | bool | None]:
        """Those of every attack, under its name."""
        return {f"{attack.name}: {key}": value for attack in self.attacks for key, value in attack.parameters.items()}

    def perturb(self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator, *, early_stop: bool) -> Tensor:
        """See `Attack`; an attack sees only what is left, whatever `early_stop` says."""
        found = x.clone()
        active = torch.arange(len(x), device=x.device)
        for attack in self.attacks:
            found[active] = attack.perturb(model, x[active], y[active], generator, early_stop=early_stop)
            active = active[is_correct(model, found[active], y[active])]
            if not len(active):
                break
        return found


def worst_case(eps: float = 8 / 255, *, queries: int = 1000) -> Ensemble:
    """The default: PGD on cross-entropy and, on the margin, of nine wrong classes in turn, then Square."""
    return Ensemble(
        eps=eps,
        attacks=(
            PGD(eps=eps, steps=40, step_size=eps / 8, decay="cosine", restarts=2),
            PGD(eps=eps, steps=40, step_size=eps / 8, decay="cosine", restarts=9, loss="margin"),
            Square(eps=eps, queries=queries),
        ),
    )
