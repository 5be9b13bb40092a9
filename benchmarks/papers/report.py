"""A table's results: table.json, table.md and table.png."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abnn_serve.card import RobustnessCard
from abnn_serve.codec import from_json, to_json
from abnn_serve.errors import ConfigError
from benchmarks.common.plots import draw_accuracy
from benchmarks.papers.table import Preset, Table

Key = tuple[str, int]  # row and seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A row's card, with the date and the hardware of its evaluation."""

    card: RobustnessCard
    date: str
    hardware: str


def read_results(path: Path, preset: str, eps: float) -> dict[Key, Result]:
    """Read a table.json; empty if there is none.

    Raises:
        ConfigError: the file has another preset or budget.
    """
    if not path.is_file():
        return {}
    record = json.loads(path.read_text())
    if (record["preset"], record["eps"]) != (preset, eps):
        raise ConfigError(
            f"{path} has preset {record['preset']} and eps {record['eps']:.4g}, expected {preset} and {eps:.4g}; "
            "choose another --out"
        )
    return {
        (row["name"], row["seed"]): Result(
            card=from_json(RobustnessCard, row["card"], str(path), ConfigError),
            date=row["date"],
            hardware=row["hardware"],
        )
        for row in record["rows"]
    }


def write_results(out: Path, results: dict[Key, Result], table: Table, preset: str) -> None:
    """Write table.json, table.md and, with any result, table.png to `out`, in the table's order."""
    results = {key: results[key] for row in table.rows for key in sorted(results) if key[0] == row.name}
    record: dict[str, Any] = {
        "preset": preset,
        "eps": table.presets[preset].eps,
        "rows": [
            {"name": name, "seed": seed, "date": one.date, "hardware": one.hardware, "card": to_json(one.card)}
            for (name, seed), one in results.items()
        ],
    }
    (out / "table.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "table.md").write_text(_markdown(results, table, table.presets[preset], preset))
    if results:
        draw_accuracy(accuracies(results), out / "table.png")


def accuracies(results: dict[Key, Result]) -> dict[str, dict[str, float]]:
    """For each row and seed, accuracy in percent: clean, and the worst of each threat model."""
    rows: dict[str, dict[str, float]] = {}
    for (name, seed), result in results.items():
        clean, worst = result.card.clean, result.card.worst
        shares = ({"clean": clean} if clean else {}) | {str(threat): share for threat, share in worst.items()}
        rows[f"{name} {seed}"] = {threat: 100 * share.value for threat, share in shares.items()}
    return rows


def _markdown(results: dict[Key, Result], table: Table, preset: Preset, name: str) -> str:
    headings = [
        "row",
        "seed",
        "published (clean / PGD)",
        "clean",
        *(heading for heading, _, _ in table.columns),
        "cost",
        "seconds",
        "attacked",
    ]
    lines = [
        f"Preset {name}; Linf {255 * preset.eps:.3g}/255; accuracy in %.",
        "",
        f"| {' | '.join(headings)} |",
        "|" + "---|" * len(headings),
    ]
    return "\n".join(lines + [_line(key, result, table) for key, result in results.items()]) + "\n"


def _line(key: Key, result: Result, table: Table) -> str:
    name, seed = key
    card, cost = result.card, result.card.training
    attacked = [_accuracy(card, threat, attack) for _, threat, attack in table.columns]
    assert cost is not None  # noqa: S101 - these cards are of trained runs
    init = f" + {cost.init_seconds:,.0f}" if cost.init_seconds else ""
    cells = [
        name,
        str(seed),
        next(row.published for row in table.rows if row.name == name),
        f"{100 * card.clean.value:.1f}" if card.clean else "",
        *("" if accuracy is None else f"{accuracy:.1f}" for accuracy in attacked),
        f"{cost.passes_per_step}N x {cost.epochs}",
        f"{cost.seconds:,.0f}{init}",
        f"{result.date}, {result.hardware}",
    ]
    return f"| {' | '.join(cells)} |"


def _accuracy(card: RobustnessCard, threat: str, attack: str) -> float | None:
    """Percent under an attack, by its name or, failing that, by the beginning of its name; without one, the worst."""
    if not attack:
        worst = {str(model): share for model, share in card.worst.items()}.get(threat)
        return 100 * worst.value if worst else None
    rows = [row for row in card.attacks if row.threat_model == threat]
    matches = [row for row in rows if row.attack == attack] or [row for row in rows if row.attack.startswith(attack)]
    return 100 * matches[0].accuracy.value if matches else None
