"""A card as Markdown, for a comment on a pull request."""

from __future__ import annotations

from abnn_serve.evaluation.reports.source import CardSource
from abnn_serve.evaluation.reports.words import (
    asked,
    between,
    budgets_in_words,
    calibration_in_words,
    describe,
    figures,
    percent,
    verdict,
)


def to_markdown(source: CardSource) -> str:
    """The verdict, the headline figures, the failed sanity checks, and the rest folded away."""
    card = source.card
    lines = [
        f"### Robustness of {source.name}",
        "",
        verdict(card),
        "",
        "| | accuracy | 95% interval | samples |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {describe(name)} | {percent(accuracy.value)} | {between(accuracy.interval)} | {accuracy.n:,} |"
        for name, accuracy in figures(card).items()
    ]
    if card.corruptions:
        count = card.corruptions.results[0].accuracy.n
        mean, interval = percent(card.corruptions.mean), between(card.corruptions.interval)
        lines.append(f"| Corruptions: mean of fifteen at five severities | {mean} | {interval} | {count:,} |")
    lines += ["", *(f"- **Failed sanity check:** {c.name} ({c.detail})" for c in card.sanity if not c.passed)]
    lines += ["", calibration_in_words(card)] if card.calibration else []
    endpoint = [f"- {name}: {value}" for name, value in asked(card.endpoint)] if card.endpoint else []
    limits = "\n".join(f"- {sentence}" for sentence in [*card.sentences, *budgets_in_words(card)])
    lines += [
        "",
        "<details><summary>How to read this</summary>",
        "",
        limits,
        *endpoint,
        "",
        f"Data: {card.data}.",
        "</details>",
    ]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
