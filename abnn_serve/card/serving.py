"""What a bundle adds to its network: precisions, drift of statistics, and calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from abnn_serve.card.accuracy import Accuracy
from abnn_serve.spec import Precision


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
