"""abnn train: train a network by recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from abnn_serve.cli.bars import progress_bar
from abnn_serve.cli.lab import require_lab
from abnn_serve.lab.recipes import RECIPES

if TYPE_CHECKING:
    from abnn_serve.lab import train as lab_train


def train(
    recipe: Annotated[str, typer.Argument(help=", ".join(RECIPES))],
    data: Annotated[
        str,
        typer.Option(
            help="training data: Parquet file or quoted pattern, class folders, motions:SOURCE; SOURCE[:100] for rows"
        ),
    ],
    val: Annotated[str, typer.Option(help="validation data, in the same forms")],
    out: Annotated[Path, typer.Option(help="directory of the run")],
    target: Annotated[
        str | None, typer.Option(help="network to train: resnet10-w16, resnet18, timm:NAME, package.module:callable")
    ] = None,
    init: Annotated[str | None, typer.Option(help="finished run or bundle to start from")] = None,
    substitute: Annotated[
        str | None, typer.Option(help="frozen substitute: a finished run, a bundle's, or NAME@WEIGHTS")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="finished run or bundle to learn from; its weight: --set teacher_weight=1")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="surgery plan to use, as JSON; proposed by depth if not given")
    ] = None,
    form: Annotated[str | None, typer.Option(help="adaptive layers: linear, the default, conditional or adain")] = None,
    rank: Annotated[
        int | None, typer.Option(help="bound of the linear maps' rank; 64 makes networks of 500 channels cheap", min=1)
    ] = None,
    size: Annotated[int, typer.Option(help="height and width of the input in pixels")] = 32,
    sampling: Annotated[
        str | None, typer.Option(help="train on clips: frames=16,stride=2,clips=3,placement=windows,crops=1,fps=15")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the data")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images a step")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="any other field of the recipe, such as cutout=8; repeatable")
    ] = None,
    seed: Annotated[int, typer.Option(help="of every random choice", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="torch.compile: faster after a minute")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in --out")] = False,
) -> None:
    """Train a network and keep a checkpoint, metrics and curves after every epoch.

    Example: abnn train abnn --target resnet10-w16 --substitute runs/substitute
    --data 'data/train-*.parquet' --val data/test.parquet --out runs/abnn
    """
    require_lab()
    from abnn_serve.cli.files import read_plan, read_sampling
    from abnn_serve.lab.device import pick_device
    from abnn_serve.lab.recipes import recipe_by_name, with_settings
    from abnn_serve.lab.start import TrainRequest
    from abnn_serve.lab.start import train as train_run
    from abnn_serve.spec import InputSpec

    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    chosen = with_settings(recipe_by_name(recipe), settings or ())
    request = TrainRequest(
        recipe=replace(chosen, **{key: value for key, value in given.items() if value is not None}),
        target=target,
        init=init,
        substitute=substitute,
        teacher=teacher,
        plan=read_plan(plan) if plan else None,
        form=form,  # type: ignore[arg-type]
        rank=rank,
        data=data,
        val=val,
        input=InputSpec(height=size, width=size, sampling=read_sampling(sampling) if sampling else None),
        seed=seed,
    )
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task("reading data", total=None, shown="")

        def on_start(config: Any, images: Any, held_out: Any) -> None:
            for data_set in (images, held_out):
                for line in data_set.corrupt:
                    bar.console.print(f"skipped: {line}", markup=False)
            if config.plan:
                bar.console.print(str(config.plan), markup=False)

        def on_progress(at: lab_train.Progress) -> None:
            shown = f"loss {at.loss:.3f}  accuracy {at.accuracy:.1%}  {at.images_per_second:,.0f} images/s"
            if at.step == at.steps and not console.is_terminal:
                console.print(f"epoch {at.epoch}/{at.epochs}  {shown}", markup=False)
            bar.update(
                task,
                description=f"epoch {at.epoch}/{at.epochs}",
                total=at.epochs * at.steps,
                completed=(at.epoch - 1) * at.steps + at.step,
                shown=shown,
            )

        run = train_run(
            request,
            out,
            resume=resume,
            device=pick_device(device),
            compiled=compiled,
            on_start=on_start,
            on_progress=on_progress,
        )
    last = run.metrics[-1]
    console.print(f"{out}: validation accuracy {last['val_accuracy']:.2%} after epoch {last['epoch']}", markup=False)
