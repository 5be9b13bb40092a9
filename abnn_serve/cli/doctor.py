"""abnn doctor: check this machine, and every bundle in every precision on every engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from abnn_serve.cli.progress import progress_bar
from abnn_serve.cli.terminal import echo
from abnn_serve.codec import to_json
from abnn_serve.errors import ConfigError
from abnn_serve.hardware import usable_cores
from abnn_serve.runtime.settings import Device, Settings, default_bundle

if TYPE_CHECKING:
    from abnn_serve.doctor.report import Case

_WIDTH = 160  # of tables without a terminal


def doctor(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="bundle directories; default: ABNN_BUNDLE, or those of abnn_serve")
    ] = None,
    device: Annotated[
        str, typer.Option(help="examine only this device: cpu, openvino, cuda or tensorrt; auto: all of them here")
    ] = "auto",
    seconds: Annotated[float, typer.Option(help="seconds for all bundles together", min=0)] = 95,
    training: Annotated[bool, typer.Option(help="also train a small network, if torch is installed")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Check this machine, and every bundle on every engine.

    Replays the golden vectors at every batch size up to a hundred times, and recommends a device and a precision. Exits
    1 on a failure.

    Example: abnn doctor --device cuda
    """
    from abnn_serve.doctor.diagnose import diagnose
    from abnn_serve.doctor.tables import print_report

    if device not in get_args(Device):
        raise ConfigError(f"--device is {device!r}, expected one of {', '.join(get_args(Device))}")
    settings = Settings.from_environment()
    threads = settings.threads or usable_cores()
    with progress_bar(Console(stderr=True)) as bar:
        task = bar.add_task("checking the environment", total=None, status="")

        def on_case(case: Case, number: int, count: int) -> None:
            status = f"{Path(case.bundle).name} {case.precision} on {case.device}"
            bar.update(task, description=f"case {number}/{count}", total=count, completed=number - 1, status=status)

        def on_training() -> None:
            bar.update(task, description="training", status="fifty steps of two recipes")

        paths = bundles or _default_bundles(settings)
        report = diagnose(paths, device, threads, seconds, on_case, on_training if training else None)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps({**to_json(report), "passed": not report.failures}, indent=2))
    else:
        console = Console()
        print_report(report, console if console.is_terminal else Console(width=_WIDTH))
    for failure in report.failures:
        echo(f"abnn: {failure}", err=True)
    if report.failures:
        raise typer.Exit(1)


def _default_bundles(settings: Settings) -> list[Path]:
    from abnn_serve.service.sources import bundle_path, find_bundles

    shipped = default_bundle().parent if settings.bundle == default_bundle() else settings.bundle
    return [bundle_path(source) for source in find_bundles(shipped)]
