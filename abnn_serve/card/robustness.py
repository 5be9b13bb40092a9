"""The card: everything measured on one model file."""

from __future__ import annotations

from dataclasses import dataclass, field

from abnn_serve.card.accuracy import Accuracy
from abnn_serve.card.attacks import AttackResult, Curve, SanityCheck, ThreatModel
from abnn_serve.card.certification import Certification
from abnn_serve.card.corruptions import Corruptions
from abnn_serve.card.endpoint import EndpointUse
from abnn_serve.card.queries import QueryAttacks
from abnn_serve.card.serving import CalibrationResult, Drift, Variant
from abnn_serve.codec import OMITTED_IF_NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """The cost of a training run.

    Attributes:
        epochs: 0 for an average of finished runs; `init_seconds` is then the longest of theirs.
        passes_per_step: forward and backward passes of one step, in units of N (see `Recipe.passes`).
        seconds: time in training steps, without the substitute's and the initial run's.
        substitute_seconds: time to pre-train the substitute; None where it is unknown.
        init_seconds: time to train the run that this one started from.
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
class RobustnessCard:
    """Everything measured on one model file, and the limits of the figures.

    Attributes:
        model_sha256: of the measured `model.onnx`; for a run without a bundle, of its `weights.pt`; for an endpoint, of
            what it says about itself.
        data, data_digest: name of the evaluation data, and the sha256 over its pixels, labels and class names.
        clean: accuracy on unperturbed images; None if not measured.
        training: cost of the training; None for a model that abnn_serve did not train.
        attacks: a row for each attack and threat model; empty if robustness was not evaluated.
        worst: accuracy under the worst of the Linf and L2 attacks for each sample, by threat model; excludes patches.
        curves: white-box accuracy as the attack grows stronger.
        sanity: checks of the evaluation itself.
        variants: accuracy of the bundle's other precisions.
        drift: of the target's statistics; None if not recorded.
        corruptions: accuracy under common corruptions; None if not measured.
        limits: sentences that qualify the figures.
        certification: accuracy with a proof; None if not measured.
        endpoint: the service that was asked; None for a model that was opened.
        calibration: of the bundle's temperature; None without one.
        query_attacks: how soon the service notices an attack by queries; None if not measured.
    """

    model_sha256: str
    data: str
    data_digest: str
    clean: Accuracy | None
    training: TrainingCost | None
    attacks: tuple[AttackResult, ...] = ()
    worst: dict[ThreatModel, Accuracy] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    sanity: tuple[SanityCheck, ...] = ()
    variants: tuple[Variant, ...] = ()
    drift: Drift | None = None
    corruptions: Corruptions | None = field(default=None, metadata=OMITTED_IF_NONE)
    limits: tuple[str, ...] = ()
    certification: Certification | None = field(default=None, metadata=OMITTED_IF_NONE)
    endpoint: EndpointUse | None = field(default=None, metadata=OMITTED_IF_NONE)
    calibration: CalibrationResult | None = field(default=None, metadata=OMITTED_IF_NONE)
    query_attacks: QueryAttacks | None = field(default=None, metadata=OMITTED_IF_NONE)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a reader of the figures must know: the limits, and what notices an attack by queries."""
        return (*self.limits, *([str(self.query_attacks)] if self.query_attacks else []))
