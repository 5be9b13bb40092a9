"""Prints a report as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from abnn_serve.doctor.report import CaseReport, Report, TrainingReport

_CASE = ("bundle", "device", "precision")
_ERRORS = ("nodes", "rounds", "golden", "neighbours", "thread", "CPU", "drift", "status")
_SPEED = ("open, s", "batch", "p50, ms", "p95, ms", "batch", "p50, ms", "p95, ms", "MiB", "captured late")

_TRAINING = ("recipe", "device", "steps", "images/s", "CPU", "status")


def print_report(report: Report, console: Console) -> None:
    """Print the environment, the loaded libraries, what each case returned and how fast, and the choices."""
    _print(
        console,
        "environment",
        ("check", "status", "detail"),
        [(c.name, c.status, c.detail) for c in report.environment],
    )
    libraries = {name: path for case in report.cases for name, path in case.libraries.items()}
    if libraries:
        _print(console, "loaded CUDA libraries", ("library", "path"), list(libraries.items()))
    _print(console, "logits: largest errors", (*_CASE, *_ERRORS), [(*_case(c), *_errors(c)) for c in report.cases])
    _print(console, "time and memory", (*_CASE, *_SPEED), [(*_case(c), *_speed(c)) for c in report.cases])
    if report.training:
        rows = [_training(row) for row in report.training]
        _print(console, "training: fifty steps of a small network", _TRAINING, rows)
    for choice in report.choices:
        setting = f"ABNN_DEVICE={choice.device} ABNN_PRECISION={choice.precision}"
        console.print(f"{Path(choice.bundle).name}: {setting} ({choice.reason})", markup=False, highlight=False)
    console.print(f"{'FAILED' if report.failures else 'passed'} in {report.seconds:.0f} s", highlight=False)


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table, "", markup=False, highlight=False)


def _case(report: CaseReport) -> tuple[str, ...]:
    return Path(report.case.bundle).name, report.case.device, report.case.precision


def _errors(report: CaseReport) -> tuple[str, ...]:
    nodes = ", ".join(f"{count} {name.removesuffix('ExecutionProvider')}" for name, count in report.nodes.items())
    errors = (report.golden_error, report.neighbour_error, report.thread_error, report.cpu_error)
    return (
        nodes,
        str(report.rounds),
        *map(_error, errors),
        "ok" if report.drift else "",
        "FAILED" if report.error else "ok",
    )


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}"


def _training(row: TrainingReport) -> tuple[str, ...]:
    speed = "" if row.images_per_second is None else f"{row.images_per_second:,.0f}"
    return row.recipe, row.device, str(row.steps), speed, _error(row.cpu_error), "FAILED" if row.error else "ok"


def _speed(report: CaseReport) -> tuple[str, ...]:
    if not report.latencies:
        return ()
    ends = (report.latencies[0], report.latencies[-1])
    graphs = "" if report.graphs is None else str(report.captures) if report.graphs else "no CUDA graphs"
    return (
        f"{report.open_seconds or 0:.1f}",
        *(cell for at in ends for cell in (str(at.batch), f"{1000 * at.p50:.2f}", f"{1000 * at.p95:.2f}")),
        "" if report.memory is None else f"{report.memory / 2**20:,.0f}",
        graphs,
    )
