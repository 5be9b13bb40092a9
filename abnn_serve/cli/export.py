"""abnn export: write a finished run as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.cli.extras import require_lab
from abnn_serve.cli.show import print_bundle
from abnn_serve.cli.terminal import echo
from abnn_serve.errors import ConfigError
from abnn_serve.spec import Precision

if TYPE_CHECKING:
    from abnn_serve.export.pass_timing import Gain


def export(
    run: Annotated[Path, typer.Argument(help="directory of a finished run, or with --triton of a bundle")],
    out: Annotated[Path | None, typer.Option(help="directory of the bundle; its last part becomes the name")] = None,
    data: Annotated[str | None, typer.Option(help="held-out images for measuring parity and clean accuracy")] = None,
    version: Annotated[str, typer.Option(help="version to record in the bundle")] = "1",
    parity_images: Annotated[
        int, typer.Option(help="number of images on which torch and the exported graph must agree", min=1)
    ] = 1000,
    tolerance: Annotated[float, typer.Option(help="largest allowed difference between logits", min=0.0)] = 1e-4,
    precision: Annotated[
        str, typer.Option(help="fp32, optionally followed by variants: int8 (CPU), fp16 (CUDA), bf16 (OpenVINO)")
    ] = "fp32",
    calibration: Annotated[
        str | None, typer.Option(help="images that calibrate the int8 ranges; default: 256 of --data")
    ] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="keep variants that lose over 0.5 points of clean accuracy")
    ] = False,
    answer: Annotated[
        str, typer.Option(help="plain, masks:patch=5,k=3 (patch also 5x7 or 10%), or noise:sigma=0.25,n=1000")
    ] = "plain",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="fit a temperature on half of --data, as abnn calibrate does")
    ] = False,
    abstain_below: Annotated[
        float | None, typer.Option(help="with --calibrate: probability below which it abstains", min=0.0, max=1.0)
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="also write a model repository for Triton here; of a bundle, nothing else")
    ] = None,
    bento_store: Annotated[
        bool, typer.Option("--bento-store", help="also import the bundle into BentoML's model store")
    ] = False,
) -> None:
    """Export a finished run as a bundle with one ONNX graph.

    Writes the bundle only if the graph agrees with torch on held-out images.

    Example: abnn export runs/abnn --out models/mine --data data/test.parquet
    """
    if triton and (run / MANIFEST).is_file():
        _write_triton(load_bundle(run), triton)
        return
    require_lab()
    if out is None or data is None:
        raise ConfigError("--out or --data is missing; give the bundle's directory and held-out images")
    if calibrate and answer != "plain":
        raise ConfigError(f"--calibrate is for plain answers, and --answer is {answer!r}; omit one of them")
    if abstain_below is not None and not calibrate:
        raise ConfigError("--abstain-below needs --calibrate, as the threshold is one of calibrated probabilities")
    precisions = _read_precisions(precision)
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
            precisions=precisions,
            calibration=ranges.spread(CALIBRATION_IMAGES) if "int8" in precisions else None,
            allow_loss=allow_loss,
            answer=answer,
            on_stage=status.update,
            on_passes=lambda gains: _print_gains(gains, console),
        )
        if calibrate:
            from abnn_serve.export.calibration import calibrate as calibrate_bundle

            status.update("fitting the temperature")
            bundle = calibrate_bundle(bundle, images, abstain_below=abstain_below)
    print_bundle(bundle)
    if triton:
        _write_triton(bundle, triton)
    if bento_store:
        from abnn_serve.service.model_store import put_in_store

        echo(f"imported into BentoML's model store; abnn serve --bundle bento:{put_in_store(bundle)} serves it")


def _write_triton(bundle: Bundle, repository: Path) -> None:
    from abnn_serve.export.triton import LOST, export_triton

    echo(f"wrote {export_triton(bundle, repository)}; behind Triton these are lost:")
    for loss in LOST:
        echo(f"  {loss}")


def _read_precisions(text: str) -> tuple[Precision, ...]:
    precisions, variants = text.split(","), get_args(Precision)[1:]
    if precisions[0] != "fp32" or len(set(precisions)) < len(precisions) or not set(precisions[1:]) <= set(variants):
        raise ConfigError(
            f"--precision is {text!r}, expected fp32, optionally followed by {', '.join(variants)}, such as fp32,int8"
        )
    return tuple(precisions)  # type: ignore[arg-type]


def _print_gains(gains: list[Gain], console: Console) -> None:
    from abnn_serve.export.passes import PASSES

    table = Table("graph pass", "nodes", "time per sample, one thread", "relative to the exported graph")
    for gain in gains:
        table.add_row(gain.name, f"{gain.nodes:,}", f"{1000 * gain.seconds:.2f} ms", f"{gain.ratio:.3f}")
    console.print(table)
    if skipped := [name for name in PASSES if name not in {gain.name for gain in gains}]:
        console.print(f"skipped, because they break parity with torch: {', '.join(skipped)}", markup=False)
