"""abnn score: classify a whole data source into Parquet files."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from abnn_serve.cli.progress import progress_bar
from abnn_serve.cli.terminal import echo
from abnn_serve.errors import ConfigError
from abnn_serve.hardware import usable_cores
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.scoring.on_ray import RayPool
from abnn_serve.scoring.score import ScoreProgress
from abnn_serve.scoring.score import score as run_score
from abnn_serve.scoring.scorer import Columns
from abnn_serve.scoring.shard import PREDICTIONS
from abnn_serve.scoring.summary import QUARANTINE, Summary
from abnn_serve.spec import Labels

_LOG_SECONDS = 60


def score(
    source: Annotated[str, typer.Argument(help="folder, file, quoted pattern or URL (s3://, gs://, ...)")],
    out: Annotated[
        Path, typer.Option(help="output directory; run the same command again to resume an interrupted run")
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="bundle directory; default: ABNN_BUNDLE, or else the default bundle")
    ] = None,
    top_k: Annotated[int, typer.Option(help="number of classes in the column `top`", min=1)] = 5,
    logits: Annotated[bool, typer.Option("--logits", help="add a column with all logits")] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="add columns with the distance of each sample's statistics from clean data")
    ] = False,
    row_id: Annotated[str, typer.Option("--id", help="row ids: path, or content for the sha256 of the bytes")] = "path",
    column: Annotated[
        str | None, typer.Option(help="Parquet column with the encoded samples; default: image or video")
    ] = None,
    max_errors: Annotated[
        int | None, typer.Option(help="stop after more than this many rows with errors; default: no limit")
    ] = None,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote", help="let a list name files outside its folder, and URLs; for lists that you trust"
        ),
    ] = False,
    shard_rows: Annotated[
        int, typer.Option(help="rows per output file; a kill loses only unfinished files", min=1)
    ] = 4096,
    workers: Annotated[
        int | None, typer.Option(help="local engine: decoding processes; default: a quarter of the cores", min=0)
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a pool of Ray actors (extra `ray`)")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="ray engine: cluster address; all nodes need abnn_serve, the source, OUT and the bundle"),
    ] = None,
    actors: Annotated[int | None, typer.Option(help="ray engine: actors; default: 1", min=1)] = None,
    cpus: Annotated[int | None, typer.Option(help="ray engine: cores per actor; default: 1", min=1)] = None,
    gpus: Annotated[
        float | None, typer.Option(help="ray engine: GPUs per actor, 0.5 lets two actors share one; default: 0", min=0)
    ] = None,
) -> None:
    """Classify a whole data source into Parquet files.

    The source is a folder of images or videos, Parquet files, WebDataset tars or a list of paths.

    Writes OUT/predictions, OUT/quarantine.jsonl with the rows that could not be classified, and OUT/summary.json; if
    the source has labels, also the accuracy and OUT/confusion.png. After a kill, a full disk or too many errors, run
    the same command again: it resumes, and its output is byte-identical to that of an uninterrupted run.

    Example: abnn score 'photos/*.parquet' --out scored
    """
    _check_engine(engine, workers=workers, address=address, actors=actors, cpus=cpus, gpus=gpus)
    settings = Settings.from_environment()
    pool = None
    if engine == "ray":
        pool = RayPool(address=address, actors=actors or 1, cpus=cpus or 1, gpus=gpus or 0, device=settings.device)
    cores = usable_cores()
    workers = max(1, cores // 4) if workers is None else workers
    settings = replace(settings, bundle=bundle or settings.bundle, threads=settings.threads or max(1, cores - workers))
    columns = Columns(top_k=top_k, logits=logits, drift=drift, id=row_id)  # type: ignore[arg-type]
    predictor = Predictor.from_settings(settings, drift=drift)
    with progress_bar(Console(stderr=True)) as bar:
        display = _ProgressDisplay(bar)
        summary = run_score(
            predictor,
            source,
            out,
            columns=columns,
            column=column,
            shard_rows=shard_rows,
            workers=workers,
            ray=pool,
            max_errors=max_errors,
            allow_remote=allow_remote,
            on_start=display.start,
            on_rows=display.update,
        )
    _report(out, summary, predictor.bundle.labels)


def _check_engine(engine: str, *, workers: int | None, **ray_options: object) -> None:
    """Raise ConfigError for options of the other engine."""
    if engine not in {"local", "ray"}:
        raise ConfigError(f"--engine is {engine!r}, expected local or ray")
    ray_only = [f"--{name}" for name, value in ray_options.items() if value is not None]
    if engine == "local" and ray_only:
        raise ConfigError(f"{', '.join(ray_only)} without --engine ray; add --engine ray, or drop the option")
    if engine == "ray" and workers is not None:
        raise ConfigError(
            f"--workers is {workers} with --engine ray, whose actors decode their own rows; use --actors instead"
        )


class _ProgressDisplay:
    """Shows rows, rows per second and errors: on a bar or, if stderr is not a terminal, as a line per minute."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("reading the source", total=None, status="")
        self._resumed_rows = self._errors = 0
        self._next_line = time.monotonic() + _LOG_SECONDS

    def start(self, at: ScoreProgress) -> None:
        self._resumed_rows, self._errors = at.rows, at.errors
        self._bar.reset(self._task, description="scoring", total=at.total, completed=at.rows)

    def update(self, rows: int, errors: int) -> None:
        task = self._bar.tasks[self._task]
        done = int(task.completed) + rows
        self._errors += errors
        rate = (done - self._resumed_rows) / max(task.elapsed or 0, 1e-3)
        status = f"{done:,} rows  {rate:,.0f}/s  {self._errors:,} errors"
        self._bar.update(self._task, advance=rows, status=status)
        if not self._bar.console.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LOG_SECONDS
            self._bar.console.print(status, markup=False, highlight=False)


def _report(out: Path, summary: Summary, labels: Labels) -> None:
    echo(f"{out / PREDICTIONS}: {summary.rows:,} rows")
    if summary.errors:
        echo(f"{out / QUARANTINE}: {summary.errors:,} rows with errors")
    if summary.accuracy is None or summary.confusion is None:
        return
    echo(f"accuracy {summary.accuracy}")
    if importlib.util.find_spec("matplotlib") is None:
        echo("confusion.png was not drawn: it needs matplotlib; install it with: pip install 'abnn_serve[score]'")
        return
    from abnn_serve.scoring.confusion import draw_confusion

    draw_confusion(summary.confusion, summary.accuracy, labels, out / "confusion.png")
    echo(f"{out / 'confusion.png'}: confusion matrix")
