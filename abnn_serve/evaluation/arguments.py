"""What may be asked of an evaluation."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from abnn_serve.card import ThreatModel
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.threats import Subject
from abnn_serve.evaluation.workers import check_jobs


def check_arguments(
    attacks: Sequence[str], *, images: int, quick: bool, full: bool, corruptions: bool, jobs: int | None
) -> None:
    """ConfigError for arguments of `evaluate` that exclude each other or ask for nothing."""
    if images < 2:
        raise ConfigError(f"images is {images}, expected at least 2")
    check_jobs(jobs)
    if quick and full:
        raise ConfigError("--quick and --full exclude each other; choose one")
    if list(attacks) == ["none"] and not corruptions:
        raise ConfigError("nothing to measure: attack 'none' needs --corruptions, or name an attack")


def can_autoattack(subject: Subject, threats: Sequence[ThreatModel]) -> bool:
    """AutoAttack is installed, and the subject has gradients and no rule that multiplies its thousands of passes."""
    is_installed = importlib.util.find_spec("pyautoattack") is not None
    return (
        is_installed and subject.network is not None and not subject.answer and (not threats or "whitebox" in threats)
    )
