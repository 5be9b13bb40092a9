"""abnn evaluate: robust accuracy of a run or a bundle, in every threat model that can be had."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.progress import progress_bar
from abnn_serve.errors import ConfigError

if TYPE_CHECKING:
    from abnn_serve.card import Accuracy, RobustnessCard
    from abnn_serve.evaluation.outcomes import Trial
    from abnn_serve.runtime.settings import Device


def evaluate(
    subject: Annotated[Path, typer.Argument(help="a finished run, or a bundle")],
    data: Annotated[str, typer.Option(help="held-out images")],
    run: Annotated[Path | None, typer.Option(help="for a bundle: the run it was exported from, for gradients")] = None,
    twin: Annotated[Path | None, typer.Option(help="undefended run, for the threat model transfer")] = None,
    probe: Annotated[Path | None, typer.Option(help="probe of the substitute, for substitute-transfer")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="attack by name; repeatable")] = None,
    threat: Annotated[list[str] | None, typer.Option(help="threat model by name; repeatable")] = None,
    images: Annotated[int, typer.Option("-n", help="images to attack, evenly spaced", min=2)] = 1000,
    eps: Annotated[str, typer.Option(help="Linf budget, such as 8/255 or 0.03")] = "8/255",
    seed: Annotated[int, typer.Option(help="of every random choice", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="fewer attacks, images and queries: a first look")] = False,
    autoattack: Annotated[
        bool, typer.Option("--autoattack", help="AutoAttack too, in the white-box threat model: by far the longest")
    ] = False,
    require: Annotated[
        list[str] | None, typer.Option(help="bar such as 'whitebox>=0.30': exit 1 below it; repeatable")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for card.json and pictures; RUN/evaluation if not given")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Attack a classifier in every threat model that can be evaluated, and write what was found to its card.

    A run gets RUN/evaluation/card.json and pictures. A bundle gets a new card inside, and with it a new identity; with
    --run it is also attacked through its gradients. A killed evaluation goes on where it was.

    Example: abnn evaluate models/mine --run runs/abnn --twin runs/standard --data data/test.parquet
    """
    require_lab()
    bars = [_bar(text) for text in require or ()]
    budget = _number(eps)
    from abnn_serve.bundle.store import pack_json, with_card
    from abnn_serve.evaluation.bundle_checks import with_attacked_drift, with_robust_accuracy
    from abnn_serve.evaluation.report import draw, filled, measure
    from abnn_serve.evaluation.subject import open_subject
    from abnn_serve.evaluation.suites import choose_trials
    from abnn_serve.lab.data.load import agree, load_data
    from abnn_serve.lab.device import pick_device

    console = Console(stderr=True)
    place = pick_device(device)
    serving: Device = "cpu" if place == "cpu" else "auto" if device == "auto" else "cuda"
    opened = open_subject(subject, run=run, twin=twin, probe=probe, device=serving)
    trials = choose_trials(
        opened.subject,
        eps=budget,
        seed=seed,
        attacks=attack or (),
        threats=threat or (),  # type: ignore[arg-type]
        quick=quick,
        autoattack=autoattack,
    )
    _check_bars(bars, trials)
    whole = agree(opened.labels, load_data(data, opened.input))
    opened.check_data(whole)
    subset = whole.spread(min(images, 200) if quick else images)
    folder = out or opened.folder
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(console) as bar:
        task = bar.add_task("", total=len(trials) * len(subset), shown="")

        def on_progress(trial: Any, done: int, accuracy: float) -> None:
            if trial not in trials:
                return
            name = f"{trial.threat_model}: {trial.attack.name}"
            bar.update(
                task,
                description=f"{trials.index(trial) + 1}/{len(trials)}",
                completed=trials.index(trial) * len(subset) + done,
                shown=f"{name}  {accuracy:.1%} left",
            )
            if not console.is_terminal and done == len(subset):
                console.print(f"{name}: {accuracy:.1%} left", markup=False)

        report = measure(
            opened.subject,
            subset,
            trials,
            eps=budget,
            curve_images=0 if quick else 200,
            device=place,
            store=folder / "batches",
            on_progress=on_progress,
        )
    card = filled(opened.card(whole), report, whole)
    if opened.bundle:
        card = replace(
            card,
            variants=with_robust_accuracy(opened.bundle, report.evaluation),
            drift=with_attacked_drift(opened.bundle, report.evaluation),
        )
        with_card(opened.bundle, card)
    (folder / "card.json").write_bytes(pack_json(card))
    draw(opened.subject, report, folder)
    print_card(card)
    typer.echo(f"{folder}: card.json and pictures" + (f"; {subject} has the card too" if opened.bundle else ""))
    _hold(bars, card)


def print_card(card: RobustnessCard) -> None:
    """Print the figures as a table, the worst cases, and the sanity checks that were raised."""
    table = Table("threat model", "attack", "eps", "accuracy", "95%", "seconds")
    table.add_row("none", "clean", "", *_cells(card.clean), "")
    for row in card.attacks:
        table.add_row(
            row.threat_model, row.attack, f"{row.eps:.4g} {row.norm}", *_cells(row.accuracy), f"{row.seconds:,.0f}"
        )
    for threat, accuracy in card.worst.items():
        table.add_row(threat, "worst of all but patches", "", *_cells(accuracy), "")
    console = Console(width=140)
    console.print(table)
    for check in card.sanity:
        if check.raised:
            console.print(f"SANITY: not shown that {check.check}: {check.detail}", markup=False, highlight=False)
    quiet = sum(not check.raised for check in card.sanity)
    console.print(f"{quiet} of {len(card.sanity)} sanity checks raised nothing", markup=False, highlight=False)


def _cells(accuracy: Accuracy | None) -> tuple[str, str]:
    if accuracy is None:
        return "not measured", ""
    low, high = accuracy.interval
    return f"{accuracy.value:.2%}", f"{low:.1%} to {high:.1%}"


def _bar(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"\s*([a-z-]+)\s*>=\s*(0|1|[01]?\.[0-9]+)\s*", text)
    if not match or not float(match[2]) <= 1:
        raise ConfigError(f"--require is {text!r}, expected THREAT>=SHARE or clean>=SHARE, such as 'whitebox>=0.30'")
    return match[1], float(match[2])


def _check_bars(bars: list[tuple[str, float]], trials: list[Trial]) -> None:
    """ConfigError for a bar that the trials will not measure: before they take hours."""
    there = {"clean", *(trial.threat_model for trial in trials if trial.attack.norm != "patch")}
    for name, _ in bars:
        if name not in there:
            raise ConfigError(
                f"--require names {name!r}, which is not measured here; there is {', '.join(sorted(there))}"
            )


def _hold(bars: list[tuple[str, float]], card: RobustnessCard) -> None:
    assert card.clean is not None  # noqa: S101 - every evaluation measures it
    measured = {"clean": card.clean} | {str(threat): accuracy for threat, accuracy in card.worst.items()}
    for name, share in bars:
        accuracy = measured[name]
        if accuracy.value < share:
            raise ConfigError(f"{name} accuracy is {accuracy.value:.4f}, required is at least {share}")


def _number(text: str) -> float:
    over, _, under = text.partition("/")
    try:
        return float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--eps is {text!r}, expected a number or a fraction, such as 8/255") from None
