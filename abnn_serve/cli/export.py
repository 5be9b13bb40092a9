"""abnn export: a finished run to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.show import print_bundle
from abnn_serve.errors import ConfigError
from abnn_serve.spec import Precision

if TYPE_CHECKING:
    from abnn_serve.export.pass_timing import Gain


def export(
    run: Annotated[Path, typer.Argument(help="directory of a finished run")],
    out: Annotated[Path, typer.Option(help="directory of the bundle; its last part is the name")],
    data: Annotated[str, typer.Option(help="held-out images: parity and clean accuracy are measured on them")],
    version: Annotated[str, typer.Option(help="version to write into the bundle")] = "1",
    parity_images: Annotated[
        int, typer.Option(help="images on which torch and the serving session must agree", min=1)
    ] = 1000,
    tolerance: Annotated[float, typer.Option(help="largest difference of a logit", min=0.0)] = 1e-4,
    precision: Annotated[
        str, typer.Option(help="fp32, then variants: int8 (CPU), fp16 (CUDA), bf16 (OpenVINO)")
    ] = "fp32",
    calibration: Annotated[
        str | None, typer.Option(help="images that set the ranges of int8; 256 of --data if not given")
    ] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="write a variant that loses over 0.5 points of clean accuracy")
    ] = False,
    bento_store: Annotated[
        bool, typer.Option("--bento-store", help="also put it into BentoML's model store, to be served by tag")
    ] = False,
) -> None:
    """Export target and substitute as one ONNX graph, prove it against torch, and write the bundle; or write nothing.

    Example: abnn export runs/abnn --out models/mine --data data/test.parquet
    """
    require_lab()
    wanted = tuple(precision.split(","))
    known = get_args(Precision)
    if wanted[0] != "fp32" or len(set(wanted)) < len(wanted) or not set(wanted) <= set(known):
        raise ConfigError(f"--precision is {precision!r}, expected fp32, then any of {', '.join(known[1:])}: fp32,int8")
    from abnn_serve.export.bundle import export_bundle
    from abnn_serve.export.int8 import CALIBRATION_IMAGES
    from abnn_serve.lab.data.load import load_data
    from abnn_serve.lab.training.run import Run

    console = Console(stderr=True)
    with console.status("reading data") as status:
        finished = Run(run)
        images = load_data(data, finished.config.input)
        ranges = load_data(calibration, finished.config.input) if calibration else images
        bundle = export_bundle(
            finished,
            out,
            images,
            version=version,
            parity_images=parity_images,
            tolerance=tolerance,
            precisions=wanted,  # type: ignore[arg-type]
            calibration=ranges.spread(CALIBRATION_IMAGES) if "int8" in wanted else None,
            allow_loss=allow_loss,
            on_stage=status.update,
            on_passes=lambda gains: _print_gains(gains, console),
        )
    print_bundle(bundle)
    if bento_store:
        from abnn_serve.service.model_store import put_in_store

        typer.echo(f"in BentoML's model store: abnn serve --bundle bento:{put_in_store(bundle)}")


def _print_gains(gains: list[Gain], console: Console) -> None:
    from abnn_serve.export.passes import PASSES

    table = Table("graph pass", "nodes", "time of one sample, one thread", "of the exported graph's")
    for gain in gains:
        table.add_row(gain.name, f"{gain.nodes:,}", f"{1000 * gain.seconds:.2f} ms", f"{gain.ratio:.3f}")
    console.print(table)
    if left := [name for name in PASSES if name not in {gain.name for gain in gains}]:
        console.print(f"left out, as parity with torch is lost with them: {', '.join(left)}", markup=False)
