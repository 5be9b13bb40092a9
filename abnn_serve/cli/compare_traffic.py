"""abnn compare-traffic: a shadow or a canary beside the model that it may replace, from the counts of /metrics."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.cli.terminal import printable
from abnn_serve.errors import ConfigError

if TYPE_CHECKING:
    from abnn_serve.service.traffic import CanaryComparison, ShadowComparison

_MAX_BYTES = 50_000_000
_SECONDS = 30


def compare_traffic(
    metrics: Annotated[str, typer.Argument(help="metrics of a server: URL of /metrics, file, or - for stdin")],
) -> None:
    """Compare a candidate with the model that it may replace.

    Reads the counts of a server. ABNN_SHADOW and ABNN_CANARY set the candidates of a server. Differences whose
    p-value, adjusted for the number of tests, is below 0.05 are marked as significant. Decide on a number of
    requests beforehand: whoever looks until a difference appears will find one.

    Example: abnn compare-traffic http://localhost:3000/metrics
    """
    from abnn_serve.service.traffic import compare_canaries, compare_shadows, read_samples

    samples = read_samples(_read(metrics), metrics)
    shadows, canaries = compare_shadows(samples), compare_canaries(samples)
    if not shadows and not canaries:
        raise ConfigError(
            f"{metrics} has no counts of a shadow, nor of both arms of a canary; set ABNN_SHADOW or ABNN_CANARY and "
            "send requests"
        )
    console = Console(width=120, markup=False)
    for shadow in shadows:
        _print_shadow(shadow, console)
    for canary in canaries:
        _print_canary(canary, console)


def _print_shadow(comparison: ShadowComparison, console: Console) -> None:
    agreement = comparison.agreement
    table = Table(
        "class", "both", "served only", "shadow only", "difference of probability", "served", "shadow", "p", "",
        title=printable(f"shadow of {comparison.name}: the same class for {agreement}"),
    )  # fmt: skip
    for row in comparison.classes:
        times = [f"{1000 * seconds:.2f} ms" for seconds in row.seconds]
        counts = [f"{count:,}" for count in (row.both, row.served, row.candidate)]
        table.add_row(
            printable(row.label), *counts, f"{row.difference:.4f}", *times, f"{row.p_value:.3g}", _mark(row.p_value)
        )
    console.print(table)
    console.print(_verdict("classes are predicted more or less often", [row.p_value for row in comparison.classes]))


def _print_canary(comparison: CanaryComparison, console: Console) -> None:
    stable, canary = comparison.requests
    table = Table(
        "figure", "stable", "canary", "p", "",
        title=printable(f"canary of {comparison.name}: {canary:,} responses, {stable:,} of the stable model"),
    )  # fmt: skip
    for figure in comparison.figures:
        values = [
            f"{1000 * value:.2f} ms" if figure.unit == "seconds" else f"{value:.2%}"
            for value in (figure.stable, figure.canary)
        ]
        table.add_row(printable(figure.name), *values, f"{figure.p_value:.3g}", _mark(figure.p_value))
    console.print(table)
    console.print(_verdict("figures differ", [figure.p_value for figure in comparison.figures]))


def _mark(p_value: float) -> str:
    from abnn_serve.service.traffic import LEVEL

    return "significant" if p_value < LEVEL else ""


def _verdict(what: str, p_values: list[float]) -> str:
    count = sum(_mark(p_value) != "" for p_value in p_values)
    if count:
        return f"{count} of {len(p_values)} {what}, and chance does not explain it"
    return f"no significant difference in {len(p_values)} tests; that is no proof that there is none"


def _read(source: str) -> str:
    if source == "-":
        return sys.stdin.read(_MAX_BYTES)
    if source.startswith(("http://", "https://")):
        with urllib.request.urlopen(source, timeout=_SECONDS) as response:  # noqa: S310  (checked above)
            return bytes(response.read(_MAX_BYTES)).decode("utf-8", "replace")
    return Path(source).read_text(encoding="utf-8", errors="replace")
