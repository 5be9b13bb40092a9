"""abnn average: average the weights of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.terminal import echo


def average(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="runs or bundles of one network, ideally fine-tuned from one another; repeat one to weight it more"
        ),
    ],
    data: Annotated[str, typer.Option(help="training data, for BatchNorm statistics; same forms as in abnn train")],
    val: Annotated[str, typer.Option(help="validation data, in the same forms")],
    out: Annotated[Path, typer.Option(help="directory of the new run")],
    recompute: Annotated[
        bool, typer.Option(help="BatchNorm statistics of clean images, or the mean of the runs' own")
    ] = True,
) -> None:
    """Average the weights of finished runs into a new run.

    The new run can be exported, attacked or trained further. After adversarial training, compare --no-recompute.

    Example: abnn average runs/a runs/b --data 'data/train-*.parquet' --val data/test.parquet --out runs/ab
    """
    require_lab()
    from abnn_serve.lab.data.load import load_data
    from abnn_serve.lab.training.average import average_runs
    from abnn_serve.lab.training.weights_file import open_run

    with Console(stderr=True).status("reading data") as status:
        spec = open_run(runs[0]).config.input
        images, held_out = load_data(data, spec), load_data(val, spec)
        status.update("averaging")
        run = average_runs(runs, out, images, held_out, recompute=recompute)
    echo(f"{run.path}: validation accuracy {run.metrics[-1]['val_accuracy']:.2%}")
