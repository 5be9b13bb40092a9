"""A robustness card in the terminal: its figures as tables, and the failed sanity checks."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from abnn_serve.card import Accuracy, Corruptions, EndpointUse, RobustnessCard
from abnn_serve.cli.terminal import printable


def print_card(card: RobustnessCard) -> None:
    """Print the figures as a table, the worst cases and the failed sanity checks."""
    table = Table("threat model", "attack", "eps", "accuracy", "95%", "seconds")
    table.add_row("none", "clean", "", *_cells(card.clean), "")
    for row in card.attacks:
        budget, seconds = f"{row.eps:.4g} {row.norm}", f"{row.seconds:,.0f}"
        table.add_row(row.threat_model, printable(row.attack), budget, *_cells(row.accuracy), seconds)
    for threat, accuracy in card.worst.items():
        table.add_row(threat, "worst case without patches", "", *_cells(accuracy), "")
    console = Console(width=140)
    console.print(table)
    if card.corruptions:
        console.print(corruption_table(card.corruptions))
    failed = [check for check in card.sanity if not check.passed]
    for check in failed:
        console.print(printable(f"FAILED: {check.name} ({check.detail})"), markup=False, highlight=False)
    if card.endpoint:
        console.print(endpoint_line(card.endpoint), markup=False, highlight=False)
    passed = len(card.sanity) - len(failed)
    console.print(f"{passed} of {len(card.sanity)} sanity checks passed", markup=False, highlight=False)


def corruption_table(corruptions: Corruptions) -> Table:
    """Accuracy by corruption and severity, their mean, and mCE if there is a twin."""
    severities = sorted({result.severity for result in corruptions.results})
    relative = "" if corruptions.mce is None else f", mCE {corruptions.mce:.1%} of the twin's error"
    low, high = corruptions.interval
    title = (
        f"{corruptions.constants}'s corruptions: mean {corruptions.mean:.1%} (95%: {low:.1%} to {high:.1%}){relative}"
    )
    table = Table("corruption", *(f"severity {severity}" for severity in severities), "mean", title=title)
    for name in dict.fromkeys(result.corruption for result in corruptions.results):
        shares = [result.accuracy.value for result in corruptions.results if result.corruption == name]
        table.add_row(name, *(f"{share:.1%}" for share in [*shares, sum(shares) / len(shares)]))
    return table


def endpoint_line(use: EndpointUse) -> str:
    """What an endpoint was asked, and what it answered."""
    answers = ", ".join(f"{count:,} x {answer}" for answer, count in use.answers.items())
    return f"{use.queries:,} queries in {use.requests:,} requests ({answers}), {use.waited:,.0f} s of waiting asked for"


def _cells(accuracy: Accuracy | None) -> tuple[str, str]:
    if accuracy is None:
        return "not measured", ""
    low, high = accuracy.interval
    return f"{accuracy.value:.2%}", f"{low:.1%} to {high:.1%}"
