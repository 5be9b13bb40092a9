"""abnn certify: accuracy with a proof, of a bundle with an answer rule or of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.card import Certification, CertifiedPoint
from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.progress import progress_bar
from abnn_serve.cli.terminal import echo
from abnn_serve.errors import ConfigError

if TYPE_CHECKING:
    from abnn_serve.evaluation.certify import Budget

_MINIMUM = r"\s*(clean|certified-(?:patch-[0-9]+(?:x[0-9]+)?|radius-[0-9.]+))\s*>=\s*(0|1|[01]?\.[0-9]+)\s*"


def certify(
    subject: Annotated[Path, typer.Argument(help="a bundle with an answer rule, or a finished run")],
    data: Annotated[str, typer.Option(help="held-out images or videos; for a bundle, the data its card names")],
    patch: Annotated[
        list[str] | None, typer.Option(help="patch size: 5, 5x7 or 10%; repeatable; default: 1%, 5% and 10%")
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="for a run: noise of this deviation instead of masks")] = None,
    k: Annotated[int, typer.Option("--k", help="for a run: masks along each axis", min=2)] = 3,
    copies: Annotated[int, typer.Option(help="for a run: noisy copies for a certificate", min=1)] = 1000,
    images: Annotated[int, typer.Option("-n", help="images to certify, evenly spaced", min=2)] = 1000,
    jobs: Annotated[int, typer.Option(help="processes, each with one thread", min=1)] = 1,
    require: Annotated[
        list[str] | None, typer.Option(help="minimum such as 'certified-patch-5>=0.40'; exit 1 below it; repeatable")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the results; RUN/evaluation by default")] = None,
) -> None:
    """Measure accuracy with a proof, against patches or in L2.

    A sample counts if it is classified correctly and no attack can change the answer. Writes certification.json and
    certified.png; a bundle also gets them on its card, which changes its identity. If it is killed, run the same
    command again: it resumes.

    Example: abnn certify models/cifar10-masks --data data/test.parquet --patch 5 --patch 10
    """
    require_lab()
    minimums = [_parse_minimum(text) for text in require or ()]
    from abnn_serve.evaluation.certify import certify as measure
    from abnn_serve.evaluation.opening import output_folder

    folder = out or output_folder(subject)
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task("reading data", total=None, status="")
        certification = measure(
            subject,
            data,
            patches=patch or (),
            sigma=sigma,
            k=k,
            copies=copies,
            images=images,
            jobs=jobs,
            out=folder,
            on_start=lambda budgets: _check_measured(minimums, budgets),
            on_progress=lambda done, total: bar.update(
                task,
                description="certifying",
                completed=done,
                total=total,
                status=f"{done:,} of {total:,} certificates",
            ),
        )
    print_certification(certification)
    is_bundle = (subject / MANIFEST).is_file()
    wrote = f"{folder}: wrote certification.json and certified.png"
    echo(wrote + (f"; {subject}: replaced the card" if is_bundle else ""))
    _check_reached(minimums, certification)


def print_certification(certification: Certification) -> None:
    """Print the certified accuracies as a table, and what an answer costs."""
    table = Table("proof against", "accuracy by the rule", "certified", "95%")
    for point in certification.points:
        low, high = point.certified.interval
        table.add_row(
            budget(point), f"{point.clean.value:.1%}", f"{point.certified.value:.1%}", f"{low:.1%} to {high:.1%}"
        )
    console = Console(width=140)
    console.print(table)
    if certification.rule.masks:
        echo("each patch with the masks for its size; this rule's are proof against its own size and smaller")
    echo(
        f"{certification.rule}; one plain pass: {certification.plain}; {certification.uncertified:,} answers without a "
        f"proof; an answer takes {certification.answer_passes:g} passes and {1000 * certification.answer_seconds:.1f} "
        f"ms, with its certificate {certification.certificate_passes:g} and "
        f"{1000 * certification.certificate_seconds:.1f} ms on one thread"
    )


def budget(point: CertifiedPoint) -> str:
    """What a point of the curve is proof against, in words."""
    if point.patch:
        return f"patch {point.patch[0]} x {point.patch[1]}"
    return f"L2 radius {point.radius:g}"


def _parse_minimum(text: str) -> tuple[str, float]:
    match = re.fullmatch(_MINIMUM, text)
    if not match or not float(match[2]) <= 1:
        raise ConfigError(
            f"--require is {text!r}, expected certified-patch-SIDE>=SHARE, certified-radius-R>=SHARE or clean>=SHARE, "
            "such as 'certified-patch-5>=0.40'"
        )
    return match[1], float(match[2])


def _check_measured(minimums: list[tuple[str, float]], budgets: Sequence[Budget]) -> None:
    """ConfigError, before anything is computed, for a minimum of a figure that is not measured."""
    measured = ["clean", *(name for budget in budgets for name in _figures(*budget))]
    for name, _ in minimums:
        if name not in measured:
            raise ConfigError(
                f"--require names {name!r}, which this certification does not measure; expected one of "
                f"{', '.join(measured)}"
            )


def _check_reached(minimums: list[tuple[str, float]], certification: Certification) -> None:
    points, own = certification.points, certification.rule.masks
    measured = {name: point.certified for point in points for name in _figures(point.patch, point.radius)}
    measured["clean"] = next(point.clean for point in points if not own or point.patch == own.patch)
    for name, minimum in minimums:
        if measured[name].value < minimum:
            raise ConfigError(f"{name} is {measured[name].value:.4f}, --require asks for at least {minimum}")


def _figures(patch: tuple[int, int] | None, radius: float | None) -> list[str]:
    """The names of a point of the curve for --require."""
    if patch is None:
        return [f"certified-radius-{radius:g}"]
    height, width = patch
    sides = [f"{height}x{width}", *([str(height)] if height == width else [])]
    return [f"certified-patch-{side}" for side in sides]
