"""Write what an evaluation found: its card, into a bundle too, and which samples survived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from abnn_serve.bundle.store import pack_json, with_card
from abnn_serve.card import RobustnessCard
from abnn_serve.evaluation.bundle_checks import with_attacked_drift, with_robust_accuracy
from abnn_serve.evaluation.report import Report
from abnn_serve.evaluation.reports.source import write_flags
from abnn_serve.evaluation.subject import OpenedSubject
from abnn_serve.files import atomic_write


def write_results(card: RobustnessCard, opened: OpenedSubject, report: Report, folder: Path) -> RobustnessCard:
    """Write the card, a bundle's into it too, and which samples survived."""
    evaluation = report.evaluation
    if opened.bundle:
        if evaluation.outcomes:
            card = replace(
                card,
                variants=with_robust_accuracy(opened.bundle, evaluation),
                drift=with_attacked_drift(opened.bundle, evaluation),
            )
        with_card(opened.bundle, card)
    with atomic_write(folder / "card.json") as file:
        file.write(pack_json(card))
    if evaluation.outcomes:
        worst = {str(threat): flags for threat, flags in evaluation.worst_flags.items()}
        write_flags(folder, evaluation.data.digest, {"clean": evaluation.clean} | worst)
    return card
