"""abnn evaluate: robust accuracy of a run or a bundle under every available threat model."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.card import ThreatModel
from abnn_serve.cli.card_tables import print_card
from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.minimums import check_measured, check_reached, read_minimums
from abnn_serve.cli.options import read_eps, read_size
from abnn_serve.cli.progress import progress_bar
from abnn_serve.cli.terminal import echo

if TYPE_CHECKING:
    from abnn_serve.evaluation.outcomes import Progress

# repeated here because a bento has no `evaluation`
ATTACKS = "fgsm, pgd, pgd-margin, pgd-l2, worst, square, rays, roa, roa-moving, autoattack"
_THREATS = ", ".join(get_args(ThreatModel))


def evaluate(
    subject: Annotated[
        str, typer.Argument(help="a run, a bundle, an ONNX file, http://HOST/v2/models/NAME or module:function")
    ],
    data: Annotated[str, typer.Option(help="held-out images or videos; for a bundle, the data its card names")],
    run: Annotated[Path | None, typer.Option(help="for a bundle without weights: its run, for gradients")] = None,
    twin: Annotated[Path | None, typer.Option(help="undefended run or bundle, for the threat model transfer")] = None,
    probe: Annotated[Path | None, typer.Option(help="probe of the substitute, for substitute-transfer")] = None,
    attack: Annotated[list[str] | None, typer.Option(help=f"attack: {ATTACKS}, or none; repeatable")] = None,
    threat: Annotated[list[str] | None, typer.Option(help=f"threat model: {_THREATS}; repeatable")] = None,
    images: Annotated[int, typer.Option("-n", help="images to attack, evenly spaced", min=2)] = 1000,
    eps: Annotated[str, typer.Option(help="Linf budget, such as 8/255 or 0.03")] = "8/255",
    seed: Annotated[int, typer.Option(help="random seed", min=0)] = 0,
    queries: Annotated[int | None, typer.Option(help="queries for each image of square and rays", min=1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer attacks, images and queries")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="AutoAttack too, a process for each core, and an estimate of the time first")
    ] = False,
    autoattack: Annotated[
        bool, typer.Option("--autoattack", help="also run AutoAttack in the white-box threat model; slow")
    ] = False,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="also measure accuracy under fifteen corruptions at five severities")
    ] = False,
    require: Annotated[
        list[str] | None, typer.Option(help="minimum such as 'whitebox>=0.30'; exit 1 below it; repeatable")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="for an ONNX file: class names, one a line; by default those of the data")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="for an ONNX file: imagenet, cifar10, none, 0-255, mean=..,std=.. or a JSON file")
    ] = None,
    output: Annotated[str | None, typer.Option(help="for an ONNX file with several outputs: the class scores")] = None,
    size: Annotated[str | None, typer.Option(help="for an ONNX file with open sizes: such as 224 or 224x320")] = None,
    gradients: Annotated[
        Path | None, typer.Option(help="for an ONNX file: another that supplies gradients, such as an int8 file's fp32")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="for an endpoint: v2, or classify for abnn_serve's own path")
    ] = None,
    key_env: Annotated[str | None, typer.Option(help="for an endpoint: environment variable with the API key")] = None,
    concurrency: Annotated[int | None, typer.Option(help="for an endpoint: requests in flight; default: 4")] = None,
    per_request: Annotated[int | None, typer.Option(help="for an endpoint: images in a request; default: 8")] = None,
    timeout: Annotated[float | None, typer.Option(help="for an endpoint: seconds for a response; default: 30")] = None,
    max_queries: Annotated[
        int | None, typer.Option(help="for an endpoint: images to send in all; default: no limit")
    ] = None,
    labels_only: Annotated[
        bool | None, typer.Option("--labels-only", help="for an endpoint: use its classes alone")
    ] = None,
    authorized: Annotated[
        bool | None, typer.Option("--authorized", help="the owner of an endpoint on another machine permits the attack")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for card.json and plots; RUN/evaluation by default")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    eot: Annotated[int, typer.Option(help="draws of a random model that attacks take the mean of", min=1)] = 1,
    straight_through: Annotated[
        bool, typer.Option("--straight-through", help="differentiate rounding and signs as the identity (BPDA)")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="processes, each with one thread; the results are the same for any number", min=1)
    ] = None,
) -> None:
    """Attack a classifier and write its robustness card.

    Tries every available threat model by default. A run gets RUN/evaluation/card.json and plots. A bundle also gets
    the card inside, which changes its identity; if it has no weights, attacks on its gradients need --run. If an
    evaluation is killed, run the same command again: it resumes.

    Example: abnn evaluate models/mine --run runs/abnn --twin runs/standard --data data/test.parquet
    """
    require_lab()
    asked = {
        "adapter": adapter,
        "key_env": key_env,
        "concurrency": concurrency,
        "per_request": per_request,
        "timeout": timeout,
        "max_queries": max_queries,
        "labels_only": labels_only,
        "authorized": authorized,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    minimums = read_minimums(require or ())
    budget = read_eps(eps)
    from abnn_serve.evaluation.endpoints.options import EndpointOptions
    from abnn_serve.evaluation.evaluate import evaluate as attack_and_write
    from abnn_serve.evaluation.opening import output_folder
    from abnn_serve.evaluation.reports.source import COMMAND

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
                completed=at.finished,
                status=status,
            )
            if not console.is_terminal and at.done == at.samples:
                console.print(status, markup=False)

        def on_corruption(name: str, number: int) -> None:
            bar.update(task, description="corruptions", total=15, completed=number, status=name)

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
            queries=queries,
            quick=quick,
            full=full,
            autoattack=autoattack,
            corruptions=corruptions,
            labels=labels,
            preprocess=preprocess,
            output=output,
            size=None if size is None else read_size(size),
            gradients=gradients,
            endpoint=EndpointOptions(**given) if given else None,
            out=folder,
            device=device,
            eot=eot,
            straight_through=straight_through,
            jobs=jobs,
            on_estimate=lambda seconds, queries: console.print(_estimate(seconds, queries), markup=False),
            on_start=lambda trials: check_measured(minimums, trials, corruptions=corruptions),
            on_progress=on_progress,
            on_corruption=on_corruption,
        )
    print_card(card)
    is_bundle = (Path(subject) / MANIFEST).is_file()
    (folder / COMMAND).write_text(shlex.join(["abnn", *sys.argv[1:]]) + "\n", encoding="utf-8")
    echo(f"{folder}: wrote card.json and plots" + (f"; {subject}: replaced the card" if is_bundle else ""))
    check_reached(minimums, card)


def _estimate(seconds: float, queries: int | None) -> str:
    if queries is None:
        return f"the attacks take about {_duration(seconds)}"
    return f"up to {queries:,} queries, which take up to {_duration(seconds)}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if minutes < 2 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
