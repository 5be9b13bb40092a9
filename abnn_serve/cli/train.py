"""abnn train: train a network with a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.progress
import typer
from rich.console import Console

from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.progress import progress_bar
from abnn_serve.cli.terminal import printable

if TYPE_CHECKING:
    from abnn_serve.lab.data.dataset import ImageData
    from abnn_serve.lab.training.loop import Progress
    from abnn_serve.lab.training.request import TrainRequest
    from abnn_serve.lab.training.run import RunConfig

# repeated here because a bento has no `lab`
RECIPES = "standard, abnn, pgd-at, oudefend, fast-at, n-fgsm, nuat, trades, bn-at, bn-at-scratch, probe, abnn-at"
_SLOW_HOURS = 12


def train(
    recipe: Annotated[str, typer.Argument(help=f"recipe: {RECIPES}")],
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
        str | None,
        typer.Option(help="finished run or bundle to learn from: --set teacher_weight=1, or feature_weight=20"),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="JSON file with a surgery plan; default: layers are paired by depth")
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="adaptive layers: linear, conditional or adain; default: linear")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="rank of adaptive maps, 0 for full maps; default: 64 for wide layers", min=0)
    ] = None,
    size: Annotated[int, typer.Option(help="height and width of the input in pixels")] = 32,
    sampling: Annotated[
        str | None, typer.Option(help="train on clips: frames=16,stride=2,clips=3,placement=windows,crops=1,fps=15")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the data")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per step")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="any other field of the recipe, such as cutout=8; repeatable")
    ] = None,
    seed: Annotated[int, typer.Option(help="random seed", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="use torch.compile: faster after a minute")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="resume from the last checkpoint in --out")] = False,
) -> None:
    """Train a network with a recipe.

    Writes a checkpoint, metrics and curves after every epoch.

    Example: abnn train abnn --target resnet10-w16 --substitute runs/substitute
    --data 'data/train-*.parquet' --val data/test.parquet --out runs/abnn
    """
    require_lab()
    from abnn_serve.cli.options import read_plan, read_sampling
    from abnn_serve.lab.device import pick_device
    from abnn_serve.lab.training.recipe_settings import with_settings
    from abnn_serve.lab.training.recipes import recipe_by_name
    from abnn_serve.lab.training.request import TrainRequest
    from abnn_serve.lab.training.train import train as train_run
    from abnn_serve.spec import InputSpec

    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    chosen = with_settings(recipe_by_name(recipe), settings or ())
    request = TrainRequest(
        recipe=replace(chosen, **{name: value for name, value in options.items() if value is not None}),
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
    device = pick_device(device)
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        display = _ProgressDisplay(bar, request, device, compiled=compiled)
        run = train_run(
            request,
            out,
            resume=resume,
            device=device,
            compiled=compiled,
            on_start=display.start,
            on_progress=display.update,
        )
    last = run.metrics[-1]
    console.print(f"{out}: validation accuracy {last['val_accuracy']:.2%} after epoch {last['epoch']}", markup=False)


class _ProgressDisplay:
    """Shows skipped files, the surgery plan and the progress: on a bar or, without a terminal, as a line per epoch."""

    def __init__(self, bar: rich.progress.Progress, request: TrainRequest, device: str, *, compiled: bool) -> None:
        self._bar, self._task = bar, bar.add_task("reading data", total=None, status="")
        self._request, self._device = request, device
        self._hint_step = 20 if compiled else 1  # compiling makes the first step slow

    def start(self, config: RunConfig, data: ImageData, val: ImageData) -> None:
        for line in (*data.corrupt, *val.corrupt):
            self._bar.console.print(printable(f"skipped: {line}"), markup=False)
        if config.plan:
            self._bar.console.print(str(config.plan), markup=False)

    def update(self, at: Progress) -> None:
        if self._hint_step and at.step >= self._hint_step:
            self._hint_step = 0
            if hint := self._slow_hint(at):
                self._bar.console.print(hint, markup=False, highlight=False, soft_wrap=True)
        status = f"loss {at.loss:.3f}  accuracy {at.accuracy:.1%}  {self._rate(at)}"
        if at.step == at.steps and not self._bar.console.is_terminal:
            self._bar.console.print(f"epoch {at.epoch}/{at.epochs}  {status}", markup=False)
        self._bar.update(
            self._task,
            description=f"epoch {at.epoch}/{at.epochs}",
            total=at.epochs * at.steps,
            completed=(at.epoch - 1) * at.steps + at.step,
            status=status,
        )

    def _rate(self, at: Progress) -> str:
        unit = "clips" if self._request.input.sampling else "images"
        return f"{at.images_per_second:,.{0 if at.images_per_second >= 10 else 1}f} {unit}/s"

    def _slow_hint(self, at: Progress) -> str:
        """What to do about a training that will take longer than _SLOW_HOURS; empty if it is faster."""
        steps = at.epochs * at.steps - (at.epoch - 1) * at.steps - at.step
        hours = steps * self._request.recipe.batch_size / max(at.images_per_second, 1e-9) / 3600
        if hours <= _SLOW_HOURS:
            return ""
        duration = f"{hours:,.0f} hours" if hours < 72 else f"{hours / 24:,.0f} days"
        options = ["a smaller --size", "fewer --epochs", "a smaller --target"]
        if self._device == "cpu":
            options.insert(0, "a GPU (--device cuda)")
        return f"slow training: {self._rate(at)}, about {duration} to go; faster with {', '.join(options)}"
