"""abnn mix: mix a robust and an accurate run into one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.terminal import echo


def mix(
    robust: Annotated[Path, typer.Argument(help="finished run, or bundle with weights, whose robustness is kept")],
    clean: Annotated[Path, typer.Argument(help="the more accurate half: a run or bundle of the same classes")],
    data: Annotated[str, typer.Option(help="images that neither half was trained on and no evaluation will use")],
    out: Annotated[Path, typer.Option(help="directory of the new run")],
    keep: Annotated[
        float, typer.Option(help="share of the robust half's adversarial accuracy that the mixture must keep")
    ] = 0.97,
    images: Annotated[int, typer.Option("-n", "--images", min=10, help="images to attack")] = 500,
    eps: Annotated[float, typer.Option(help="Linf budget, in units of [0, 1] pixels")] = 8 / 255,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    seed: Annotated[int, typer.Option(help="random seed of the attacks")] = 0,
) -> None:
    """Mix a robust and an accurate network into one.

    Nothing is trained. The clean half decides where the robust half is unsure (Bai et al. 2024, MixedNUTS). The
    rule is chosen on held-out images under attacks on the mixture itself. The new run is exported as one graph, and
    attacked through both halves.

    Example: abnn mix runs/robust runs/twin --data 'data/train-*.parquet[48000:]' --out runs/mixed
    """
    require_lab()
    from abnn_serve.lab.data.load import load_data
    from abnn_serve.lab.device import pick_device
    from abnn_serve.lab.training.mix import Round, mix_runs
    from abnn_serve.lab.training.weights_file import open_run

    console = Console(stderr=True)

    def report(result: Round) -> None:
        rule = result.rule
        console.print(
            f"scale {rule.scale:g}  power {rule.power:g}  shift {rule.shift:g}  share {rule.share:g}: clean "
            f"{result.clean:.1%}, under attack {result.adversarial:.1%} (before this attack {result.expected:.1%})"
        )

    with console.status("attacking and choosing the rule"):
        held_out = load_data(data, open_run(robust).config.input)
        chosen = pick_device(device)
        run = mix_runs(
            robust, clean, out, held_out, keep=keep, images=images, eps=eps, device=chosen, seed=seed, on_round=report
        )
    metrics = run.metrics[-1]
    echo(f"{run.path}: clean {metrics['val_accuracy']:.2%}, under attack {metrics['val_pgd_accuracy']:.2%}")
