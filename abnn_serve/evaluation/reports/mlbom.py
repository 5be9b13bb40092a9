"""A card as a CycloneDX 1.6 machine-learning bill of materials."""

from __future__ import annotations

import json
from typing import Any

from abnn_serve.evaluation.reports.source import CardSource
from abnn_serve.evaluation.reports.words import budgets, figures
from abnn_serve.version import __version__


def to_mlbom(source: CardSource) -> str:
    """JSON of a bill of materials whose model card holds the figures as performance metrics."""
    card = source.card
    attacks = budgets(card)
    metrics = [
        _metric(
            name if name == "clean" else f"worst case, {name}{f', {attacks}' if attacks else ''}",
            accuracy.value,
            accuracy.interval,
        )
        for name, accuracy in figures(card).items()
    ]
    metrics += [
        _metric(
            f"{row.threat_model}, {row.attack}, {row.norm} eps {row.eps:.6g}", row.accuracy.value, row.accuracy.interval
        )
        for row in card.attacks
    ]
    if card.corruptions:
        metrics.append(_metric("mean over corruptions", card.corruptions.mean, card.corruptions.interval))
    component = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": source.name,
        "hashes": [{"alg": "SHA-256", "content": card.model_sha256}],
        "modelCard": {
            "modelParameters": {"task": "classification", "datasets": [{"type": "dataset", "name": card.data}]},
            "quantitativeAnalysis": {"performanceMetrics": metrics},
            "considerations": {"technicalLimitations": list(card.sentences)},
        },
    }
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [{"type": "application", "name": "abnn_serve", "version": __version__}]}},
        "components": [component],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _metric(what: str, value: float, interval: tuple[float, float]) -> dict[str, Any]:
    low, high = interval
    return {
        "type": "accuracy",
        "slice": what,
        "value": f"{value:.4f}",
        "confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"},
    }
