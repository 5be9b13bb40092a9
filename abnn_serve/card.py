"""RobustnessCard: what was measured on a model, by whom it can be attacked, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from abnn_serve.errors import ConfigError
from abnn_serve.spec import Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ThreatModel = Literal["transfer", "substitute-transfer", "graybox", "whitebox", "blackbox", "artifact"]
Norm = Literal["Linf", "L2", "patch"]

_Z95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """`correct` of `n` samples."""

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n == 0:
            raise ConfigError(f"Accuracy is {self.correct} of {self.n}, expected 0 <= correct <= n and n > 0")

    @classmethod
    def of(cls, is_correct: Collection[bool] | NDArray[np.bool_]) -> Accuracy:
        """Accuracy of flags, bool (N,)."""
        return cls(correct=int(sum(map(bool, is_correct))), n=len(is_correct))

    @property
    def value(self) -> float:
        """Share that is correct, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share, in [0, 1] (Wilson 1927)."""
        p, n, z = self.value, self.n, _Z95
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} of {self.n:,} (95%: {low:.1%} to {high:.1%})"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """Accuracy under one attack in one threat model.

    Attributes:
        eps: in units of [0, 1] pixels; for a patch, the share of the area.
        parameters: everything else that decides what the attack does.
        accuracy: share of all samples that stay right, those that were wrong without an attack included.
        seconds: time that the attack took.
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
    """One sign of a misleading evaluation: what was looked at, whether it was seen, and the figures."""

    check: str
    raised: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """What training took; the substitute's own pre-training, and that of the run it started from, are counted apart.

    Attributes:
        epochs: 0 for a mean of finished runs, of which the costliest is what it started from.
    """

    recipe: str
    epochs: int
    images: int
    passes_per_step: int
    seconds: float
    hardware: str
    substitute_seconds: float | None = None
    init_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The network in another precision on one engine, beside the fp32 graph that everything else on the card is about.

    Attributes:
        provider: the engine that it was measured on.
        calibration: where the value ranges of int8 were taken from; empty for others.
        max_error: largest difference of a logit from torch, on `images` images.
        same_class: how many of them it decides as torch does.
        clean: accuracy on the card's data.
        robust: accuracy on the white-box images made for the fp32 graph, rounded to uint8, worst for each sample; None
            where that was not measured.
    """

    precision: Precision
    provider: str
    calibration: str
    max_error: float
    same_class: int
    images: int
    clean: Accuracy
    robust: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftUnderAttack:
    """Area under the ROC curve of the mean drift: `images` rightly answered ones against the same, attacked.

    0.5 tells nothing; below it, attacked images look cleaner than clean ones.
    """

    attack: str
    eps: float
    images: int
    auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the target's statistics are from those recorded on clean data: see `runtime.drift`.

    Attributes:
        images: clean ones that were recorded.
        layers: adaptive layers that are looked at; a sample's figure is the mean of theirs.
        median, p95, p99: of the figure, over the same images.
        attacks: how well it tells white-box images; empty where that was not measured. Who knows of the figure can
            attack it too: it is no defence.
    """

    images: int
    layers: int
    median: float
    p95: float
    p99: float
    attacks: tuple[DriftUnderAttack, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessCard:
    """Everything measured on one model file, and what the numbers do not say.

    Attributes:
        model_sha256: of the `model.onnx` that was measured; of `weights.pt` for a run that was not exported.
        data, data_digest: the evaluation set, and the sha256 over its pixels and labels.
        clean: accuracy on unperturbed images; None where it was not measured.
        attacks: one row for each attack and threat model; empty where robustness was not evaluated.
        worst: accuracy under the worst of the Linf and L2 attacks for each sample, by threat model, without patches.
        curves: white-box accuracy against the attack's strength.
        sanity: the signs of a misleading evaluation that were looked for.
        variants: what the bundle's other precisions are worth.
        drift: of the target's statistics; None where none were recorded.
        limits: what a reader must know before trusting the numbers.
    """

    model_sha256: str
    data: str
    data_digest: str
    clean: Accuracy | None
    training: TrainingCost
    attacks: tuple[AttackResult, ...] = ()
    worst: dict[ThreatModel, Accuracy] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    sanity: tuple[SanityCheck, ...] = ()
    variants: tuple[Variant, ...] = ()
    drift: Drift | None = None
    limits: tuple[str, ...] = ()
