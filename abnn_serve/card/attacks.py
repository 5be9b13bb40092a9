"""What attacks left of a model, and whether the evaluation can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abnn_serve.card.accuracy import Accuracy

ThreatModel = Literal["transfer", "substitute-transfer", "graybox", "whitebox", "blackbox", "artifact"]
Norm = Literal["Linf", "L2", "patch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """Accuracy under one attack in one threat model.

    Attributes:
        eps: in units of [0, 1] pixels; for a patch, the share of the area.
        parameters: all other parameters of the attack.
        accuracy: on all samples; those misclassified without an attack count as incorrect.
        seconds: duration of the attack.
    """

    threat_model: ThreatModel
    attack: str
    norm: Norm
    eps: float
    parameters: dict[str, float | int | str | bool | None]
    seed: int
    accuracy: Accuracy
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """White-box accuracy of PGD as one of its parameters grows: `eps` in units of [0, 1] pixels, or `steps`."""

    parameter: Literal["eps", "steps"]
    attack: str
    points: tuple[tuple[float, Accuracy], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SanityCheck:
    """A property that a sound evaluation has, and whether this one has it. The fields are the keys of card.json.

    Attributes:
        check: the property, such as "queries alone do not beat gradients"; same as `name`.
        raised: the evaluation lacks it; the opposite of `passed`.
        detail: the figures.
    """

    check: str
    raised: bool
    detail: str

    @classmethod
    def of(cls, name: str, *, passed: bool, detail: str) -> SanityCheck:
        """The check of a property called `name`."""
        return cls(check=name, raised=not passed, detail=detail)

    @property
    def name(self) -> str:
        """The property."""
        return self.check

    @property
    def passed(self) -> bool:
        """The evaluation has it."""
        return not self.raised
