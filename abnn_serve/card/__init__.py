"""RobustnessCard: what was measured on a model, under which threat models, and the limits of the figures."""

from __future__ import annotations

from abnn_serve.card.accuracy import Accuracy
from abnn_serve.card.attacks import AttackResult, Curve, Norm, SanityCheck, ThreatModel
from abnn_serve.card.certification import Certification, CertifiedPoint
from abnn_serve.card.corruptions import CorruptionResult, Corruptions
from abnn_serve.card.endpoint import EndpointProtocol, EndpointUse
from abnn_serve.card.queries import QueryAttacks
from abnn_serve.card.robustness import RobustnessCard, TrainingCost
from abnn_serve.card.serving import CalibrationResult, Drift, DriftUnderAttack, Variant

__all__ = [
    "Accuracy",
    "AttackResult",
    "CalibrationResult",
    "Certification",
    "CertifiedPoint",
    "CorruptionResult",
    "Corruptions",
    "Curve",
    "Drift",
    "DriftUnderAttack",
    "EndpointProtocol",
    "EndpointUse",
    "Norm",
    "QueryAttacks",
    "RobustnessCard",
    "SanityCheck",
    "ThreatModel",
    "TrainingCost",
    "Variant",
]
