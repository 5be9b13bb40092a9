"""abnn evaluate: robust accuracy of a run or a bundle under every available threat model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.card import Accuracy, RobustnessCard, ThreatModel
from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.progress import progress_bar
from abnn_serve.cli.terminal import echo, printable
from abnn_serve.errors import ConfigError

if TYPE_CHECKING:
    from abnn_serve.evaluation.outcomes import Progress, Trial

# repeated here because a bento has no `evaluation`
ATTACKS = "fgsm, pgd, pgd-margin, pgd-l2, worst, square, roa, roa-moving, autoattack"
_THREATS = ", ".join(get_args(ThreatModel))


def evaluate(
    subject: Annotated[Path, typer.Argument(help="a finished run, or a bundle")],
    data: Annotated[str, typer.Option(help="held-out images or videos; for a bundle, the data its card names")],
    run: Annotated[Path | None, typer.Option(help="for a bundle: the run it was exported from, for gradients")] = None,
    twin: Annotated[Path | None, typer.Option(help="undefended run, for the threat model transfer")] = None,
    probe: Annotated[Path | None, typer.Option(help="probe of the substitute, for substitute-transfer")] = None,
    attack: Annotated[list[str] | None, typer.Option(help=f"attack: {ATTACKS}; repeatable")] = None,
    threat: Annotated[list[str] | None, typer.Option(help=f"threat model: {_THREATS}; repeatable")] = None,
    images: Annotated[int, typer.Option("-n", help="images to attack, evenly spaced", min=2)] = 1000,
    eps: Annotated[str, typer.Option(help="Linf budget, such as 8/255 or 0.03")] = "8/255",
    seed: Annotated[int, typer.Option(help="random seed", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="fewer attacks, images and queries")] = False,
    autoattack: Annotated[
        bool, typer.Option("--autoattack", help="also run AutoAttack in the white-box threat model; slow")
    ] = False,
    require: Annotated[
        list[str] | None, typer.Option(help="minimum such as 'whitebox>=0.30'; exit 1 below it; repeatable")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for card.json and plots; RUN/evaluation by default")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Attack a classifier under every available threat model, and write the results to its card.

    A run gets RUN/evaluation/card.json and plots. A bundle also gets the card inside, which changes its identity;
    with --run it is also attacked through its gradients. If an evaluation is killed, run the same command again: it
    resumes.

    Example: abnn evaluate models/mine --run runs/abnn --twin runs/standard --data data/test.parquet
    """
    require_lab()
    minimums = [_parse_minimum(text) for text in require or ()]
    budget = _parse_eps(eps)
    from abnn_serve.evaluation.evaluate import evaluate as attack_and_write
    from abnn_serve.evaluation.subject import output_folder

    folder = out or output_folder(subject, run)
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task("reading data", total=None, status="")

        def on_progress(at: Progress) -> None:
            status = f"{at.trial.threat_model}: {at.trial.attack.name}  accuracy {at.accuracy:.1%}"
            bar.update(
                task,
                description=f"{at.number}/{at.trials}",
                total=at.trials * at.samples,
                completed=(at.number - 1) * at.samples + at.done,
                status=status,
            )
            if not console.is_terminal and at.done == at.samples:
                console.print(status, markup=False)

        card = attack_and_write(
            subject,
            data,
            run=run,
            twin=twin,
            probe=probe,
            attacks=attack or (),
            threats=threat or (),  # type: ignore[arg-type]
            images=images,
            eps=budget,
            seed=seed,
            quick=quick,
            autoattack=autoattack,
            out=folder,
            device=device,
            on_start=lambda trials: _check_minimums(minimums, trials),
            on_progress=on_progress,
        )
    print_card(card)
    is_bundle = (subject / MANIFEST).is_file()
    echo(f"{folder}: wrote card.json and plots" + (f"; {subject}: replaced the card" if is_bundle else ""))
    _check_accuracy(minimums, card)


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
    failed = [check for check in card.sanity if not check.passed]
    for check in failed:
        console.print(printable(f"FAILED: {check.name} ({check.detail})"), markup=False, highlight=False)
    passed = len(card.sanity) - len(failed)
    console.print(f"{passed} of {len(card.sanity)} sanity checks passed", markup=False, highlight=False)


def _cells(accuracy: Accuracy | None) -> tuple[str, str]:
    if accuracy is None:
        return "not measured", ""
    low, high = accuracy.interval
    return f"{accuracy.value:.2%}", f"{low:.1%} to {high:.1%}"


def _parse_minimum(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"\s*([a-z-]+)\s*>=\s*(0|1|[01]?\.[0-9]+)\s*", text)
    if not match or not float(match[2]) <= 1:
        raise ConfigError(f"--require is {text!r}, expected THREAT>=SHARE or clean>=SHARE, such as 'whitebox>=0.30'")
    return match[1], float(match[2])


def _check_minimums(minimums: list[tuple[str, float]], trials: Sequence[Trial]) -> None:
    """ConfigError, before hours of attacks, for a minimum of a figure that no trial measures."""
    measured = {"clean", *(trial.threat_model for trial in trials if trial.attack.norm != "patch")}
    for name, _ in minimums:
        if name not in measured:
            raise ConfigError(
                f"--require names {name!r}, which this evaluation does not measure; "
                f"expected one of {', '.join(sorted(measured))}"
            )


def _check_accuracy(minimums: list[tuple[str, float]], card: RobustnessCard) -> None:
    assert card.clean is not None  # noqa: S101 - every evaluation measures it
    measured = {"clean": card.clean} | {str(threat): accuracy for threat, accuracy in card.worst.items()}
    for name, minimum in minimums:
        if measured[name].value < minimum:
            raise ConfigError(f"{name} accuracy is {measured[name].value:.4f}, --require asks for at least {minimum}")


def _parse_eps(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--eps is {text!r}, expected a number or a fraction, such as 8/255") from None
