"""abnn compare: two or more robustness cards side by side, with the error of their differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.errors import ConfigError


def compare(
    cards: Annotated[list[Path], typer.Argument(help="bundles, folders of evaluations, or card.json files")],
) -> None:
    """Compare the first card with each other one.

    Prints accuracies, differences and their 95% intervals. Evaluations of the same images are paired, which makes
    the interval narrower. A difference whose interval excludes 0 is marked as clear.

    Example: abnn compare runs/old/evaluation runs/new/evaluation
    """
    from abnn_serve.evaluation.reports.compare import compare as differences
    from abnn_serve.evaluation.reports.source import read_card
    from abnn_serve.evaluation.reports.words import between, percent

    if len(cards) < 2:
        raise ConfigError("one card cannot be compared; give at least two")
    first, *others = [read_card(path) for path in cards]
    table = Table("figure", "first", "second", "difference", "95%", "McNemar's p", "")
    for other in others:
        table.add_section()
        for row in differences(first, other):
            table.add_row(
                row.name,
                f"{first.name}: {percent(row.first.value)} of {row.first.n:,}",
                f"{other.name}: {percent(row.second.value)} of {row.second.n:,}",
                f"{100 * row.value:+.1f} points",
                between(row.interval),
                "other images" if row.p_value is None else f"{row.p_value:.3g}",
                "clear" if row.is_clear else "",
            )
    Console(width=150).print(table)
