"""Required minimums of a card's figures: reading them, and checking them before and after an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from abnn_serve.card import RobustnessCard
from abnn_serve.errors import ConfigError

if TYPE_CHECKING:
    from abnn_serve.evaluation.outcomes import Trial


def read_minimums(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Parse texts such as `whitebox>=0.30` to names of figures and shares in [0, 1]."""
    minimums = []
    for text in texts:
        match = re.fullmatch(r"\s*([a-z-]+)\s*>=\s*(0|1|[01]?\.[0-9]+)\s*", text)
        if not match or not float(match[2]) <= 1:
            raise ConfigError(
                f"--require is {text!r}, expected THREAT>=SHARE, clean>=SHARE or corruptions>=SHARE, "
                "such as 'whitebox>=0.30'"
            )
        minimums.append((match[1], float(match[2])))
    return minimums


def check_measured(minimums: list[tuple[str, float]], trials: Sequence[Trial], *, corruptions: bool) -> None:
    """ConfigError, before hours of attacks, for a minimum of a figure that no trial measures."""
    measured = {"clean", *(trial.threat_model for trial in trials if trial.attack.norm != "patch")}
    if corruptions:
        measured.add("corruptions")
    for name, _ in minimums:
        if name not in measured:
            raise ConfigError(
                f"--require names {name!r}, which this evaluation does not measure; "
                f"expected one of {', '.join(sorted(measured))}"
            )


def check_reached(minimums: list[tuple[str, float]], card: RobustnessCard) -> None:
    """ConfigError for a figure of the card that is below its minimum."""
    assert card.clean is not None  # noqa: S101 - every evaluation measures it
    measured = {"clean": card.clean.value} | {str(threat): accuracy.value for threat, accuracy in card.worst.items()}
    if card.corruptions:
        measured["corruptions"] = card.corruptions.mean
    for name, minimum in minimums:
        if measured[name] < minimum:
            raise ConfigError(f"{name} accuracy is {measured[name]:.4f}, --require asks for at least {minimum}")
