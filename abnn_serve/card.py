"""RobustnessCard: what was measured on a model, under which threat models, and the limits of the figures."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from abnn_serve.answer import Answer
from abnn_serve.codec import OMITTED_IF_NONE
from abnn_serve.errors import ConfigError
from abnn_serve.spec import Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ThreatModel = Literal["transfer", "substitute-transfer", "graybox", "whitebox", "blackbox", "artifact"]
Norm = Literal["Linf", "L2", "patch"]
EndpointProtocol = Literal["v2", "classify", "callable"]

_Z95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A share of `n` samples, of which `correct` are classified correctly."""

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n == 0:
            raise ConfigError(f"Accuracy is {self.correct} of {self.n}, expected 0 <= correct <= n and n > 0")

    @classmethod
    def of(cls, is_correct: Collection[bool] | NDArray[np.bool_]) -> Accuracy:
        """The accuracy of flags, bool (N,)."""
        return cls(correct=int(sum(map(bool, is_correct))), n=len(is_correct))

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
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
class Variant:
    """Accuracy of another precision on one engine; all other figures of the card are those of the fp32 graph.

    Attributes:
        provider: name of the engine.
        calibration: data that set the value ranges of int8; empty for other precisions.
        max_error: largest difference of a logit from torch, on `images` images.
        same_class: how many of those images get the same class from torch.
        clean: accuracy on the card's data.
        robust: worst case for each sample over the white-box images of the fp32 graph, rounded to uint8; None if not
            measured.
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
    """How well the mean drift separates attacked images from clean ones, as area under the ROC curve.

    Attributes:
        images: number of correctly classified images, each scored clean and attacked.
        auroc: 0.5 is chance; below 0.5, attacked images drift less than clean ones.
    """

    attack: str
    eps: float
    images: int
    auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Distance of the target's statistics from those recorded on clean data: see `runtime.drift`.

    Attributes:
        images: number of clean images whose statistics were recorded.
        layers: number of adaptive layers; a sample's drift is the mean over them.
        median, p95, p99: of the drift of those images.
        attacks: how well drift separates white-box images from clean ones; empty if not measured. An attacker who knows
            this score can evade it too; it is not a defence.
    """

    images: int
    layers: int
    median: float
    p95: float
    p99: float
    attacks: tuple[DriftUnderAttack, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPoint:
    """Accuracy with a proof against one budget.

    Attributes:
        patch: height and width in pixels, with masks for this patch; None for noise.
        radius: of the L2 norm, in units of [0, 1] pixels; None for masks.
        clean: accuracy of the rule on unperturbed samples.
        certified: samples that are classified correctly, with a proof that no change within the budget alters that.
    """

    patch: tuple[int, int] | None
    radius: float | None
    clean: Accuracy
    certified: Accuracy

    @property
    def budget(self) -> float:
        """The radius, or the side of a square of the patch's area in pixels."""
        return math.sqrt(math.prod(self.patch)) if self.patch else self.radius or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certification:
    """What `abnn certify` proved.

    Attributes:
        rule: the answer rule; the masks of other patches than its own have the same k.
        plain: accuracy of one pass without the rule.
        points: by growing budget.
        uncertified: samples without a certificate of the rule, whatever their class; for noise, abstentions.
        confidence: probability, at least, that one certificate is right; 1 for masks.
        answer_passes, certificate_passes: mean passes for an answer, and for an answer with its certificate.
        answer_seconds, certificate_seconds: mean time for them, on `hardware` with one thread.
    """

    rule: Answer
    plain: Accuracy
    points: tuple[CertifiedPoint, ...]
    uncertified: int
    confidence: float
    answer_passes: float
    certificate_passes: float
    answer_seconds: float
    certificate_seconds: float
    hardware: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionResult:
    """Accuracy under one corruption at one severity, 1 to 5; `twin` is the undefended twin's, None without one."""

    corruption: str
    severity: int
    accuracy: Accuracy
    twin: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruptions:
    """Accuracy under the corruptions of Hendrycks & Dietterich (2019).

    Attributes:
        constants: the data set whose constants were used, `CIFAR-10-C` or `ImageNet-C`.
        seed: random seed of the corruptions.
        results: one for each corruption and severity.
        mean: mean accuracy over corruptions and severities, in [0, 1].
        interval: 95% interval of `mean`, from its variation over images.
        mce: mean over corruptions of this model's error, summed over severities, divided by the twin's; 1 equals the
            twin, less is better; None without a twin.
    """

    constants: Literal["CIFAR-10-C", "ImageNet-C"]
    seed: int
    results: tuple[CorruptionResult, ...]
    mean: float
    interval: tuple[float, float]
    mce: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointUse:
    """A service that was evaluated by queries, and what it was asked.

    Attributes:
        address: of the service, without keys, or `module:function`.
        protocol: `v2`, `classify` or `callable`.
        scores: what it answers: `logits`, `probabilities` or `labels`.
        repeats: answers to each image of which the mean was taken.
        queries: images that were sent.
        requests: HTTP requests, or calls.
        answers: requests by HTTP status, `timeout` or `no connection`.
        waited: seconds that it asked to wait, in all.
    """

    address: str
    protocol: EndpointProtocol
    scores: Literal["logits", "probabilities", "labels"]
    repeats: int
    queries: int
    requests: int
    answers: dict[str, int]
    waited: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """What temperature scaling does to probabilities.

    Attributes:
        data: name of the held-out data.
        fitted: images or videos that the temperature was fitted on.
        measured: other images or videos, on which all figures were measured.
        bins: of the calibration error.
        ece_before, ece_after: expected calibration error, in [0, 1], without and with the temperature.
        nll_before, nll_after: mean negative log-likelihood, without and with the temperature.
        abstained: how many of them the bundle abstains from; None if it never abstains.
        answered: accuracy on the others; None if it never abstains, or always.
    """

    data: str
    fitted: int
    measured: int
    bins: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    abstained: int | None = None
    answered: Accuracy | None = None


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
