"""Train from a request: read the data, write the configuration, run the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from abnn_serve.codec import to_json
from abnn_serve.errors import TrainingError
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.lab.training.assemble import assemble
from abnn_serve.lab.training.distributed import Workers, join_workers
from abnn_serve.lab.training.loop import Progress, fit
from abnn_serve.lab.training.pretrained import load_teacher
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import Run, RunConfig


def train(
    request: TrainRequest,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    compiled: bool = False,
    on_start: Callable[[RunConfig, ImageData, ImageData], None] = lambda *_: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Train as `request` says and write the run to the directory `out`.

    Under `torchrun`, each process trains on its share of every batch (gloo on CPUs, nccl on GPUs); the weights equal
    those of a single process up to rounding.

    Args:
        request: what to train, on which data.
        out: directory of the run.
        resume: continue the run in `out` from its last checkpoint.
        device: `cpu` or `cuda`.
        compiled: compile the network with `torch.compile`.
        on_start: called with the configuration, the training data and the validation data before the first step.
        on_progress: called every few steps.

    Raises:
        TrainingError: `out` already holds a run and `resume` is off, or its configuration differs from `request`.
        DataError, NetworkError, SurgeryError: the data cannot be read, or the networks do not fit.
    """
    run = Run(out)
    workers, device = join_workers(device)
    started = run.exists
    workers.wait()
    if started and not resume:
        raise TrainingError(f"{run.path} already holds a run; add --resume to continue it, or choose another --out")
    data, val = load_data(request.data, request.input), load_data(request.val, request.input)
    val = agree(data.classes, val)
    if len(data) < request.recipe.batch_size:
        raise TrainingError(
            f"the data has {len(data)} images, fewer than one batch of {request.recipe.batch_size}; lower --batch-size"
        )
    _check_workers(request.recipe, workers)
    torch.manual_seed(request.seed)
    config, network = assemble(request, data, val, device=device)
    if request.teacher:
        config = replace(config, teacher_source=Path(request.teacher).name)
    if started:
        _check_same(run.config, config, run.path)
    elif workers.is_leader:
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
    workers.wait()
    if not workers.is_leader:
        on_start, on_progress = (lambda *_: None), (lambda _: None)
    on_start(config, data, val)
    teacher = load_teacher(request.teacher, config) if request.teacher else None
    fit(
        run,
        network,
        data,
        val,
        teacher=teacher,
        workers=workers,
        device=device,
        compiled=compiled,
        on_progress=on_progress,
    )
    return run


def _check_workers(recipe: Recipe, workers: Workers) -> None:
    if recipe.batch_size % workers.count:
        raise TrainingError(
            f"--batch-size is {recipe.batch_size}, expected a multiple of the {workers.count} processes"
        )
    for setting in ("nuclear_weight", "fixed_statistics"):
        if workers.count > 1 and getattr(recipe, setting):
            raise TrainingError(f"{setting} needs whole batches, expected one process; start without torchrun")


def _check_same(saved: RunConfig, requested: RunConfig, path: Path) -> None:
    before: dict[str, Any] = to_json(saved)
    after: dict[str, Any] = to_json(requested)
    for key, value in after.items():
        if value != before[key]:
            raise TrainingError(
                f"{path} was started with {key} = {before[key]!r}, but now {key} is {value!r}; "
                "use the same options or another --out"
            )
