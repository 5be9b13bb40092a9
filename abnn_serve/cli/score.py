"""abnn score: a whole data source to Parquet of predictions, each row exactly once."""

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
from abnn_serve.errors import ConfigError
from abnn_serve.hardware import usable_cores
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.scoring.on_ray import RayPool
from abnn_serve.scoring.score import Begun
from abnn_serve.scoring.score import score as run_score
from abnn_serve.scoring.scorer import Columns
from abnn_serve.scoring.shard import PREDICTIONS
from abnn_serve.scoring.summary import QUARANTINE, Summary
from abnn_serve.spec import Labels

_LOG_SECONDS = 60


def score(
    source: Annotated[str, typer.Argument(help="folder, file, quoted pattern or URL (s3://, gs://, ...)")],
    out: Annotated[Path, typer.Option(help="directory of the output; a killed run goes on there")],
    bundle: Annotated[
        Path | None, typer.Option(help="bundle directory; ABNN_BUNDLE or the default bundle if not given")
    ] = None,
    top_k: Annotated[int, typer.Option(help="classes in the column `top`", min=1)] = 5,
    logits: Annotated[bool, typer.Option("--logits", help="a column with all logits")] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="columns with the distance of each row's statistics from clean data")
    ] = False,
    row_id: Annotated[str, typer.Option("--id", help="row ids: path, or content for its sha256")] = "path",
    column: Annotated[
        str | None, typer.Option(help="of the encoded samples in Parquet; image or video if not given")
    ] = None,
    max_errors: Annotated[int | None, typer.Option(help="stop past so many bad rows; no limit if not given")] = None,
    shard_rows: Annotated[int, typer.Option(help="rows of a shard; a kill costs at most one", min=1)] = 4096,
    workers: Annotated[
        int | None, typer.Option(help="local: processes that decode; a quarter of the cores if not given", min=0)
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for a pool of Ray actors (extra `ray`)")] = "local",
    address: Annotated[
        str | None, typer.Option(help="ray: of a cluster, where every node has abnn_serve, OUT and the bundle")
    ] = None,
    actors: Annotated[int | None, typer.Option(help="ray: how many; 1 if not given", min=1)] = None,
    cpus: Annotated[int | None, typer.Option(help="ray: cores of one actor; 1 if not given", min=1)] = None,
    gpus: Annotated[
        float | None, typer.Option(help="ray: GPUs of one actor; 0.5 lets two share one, none if not given", min=0)
    ] = None,
) -> None:
    """Classify all pictures or videos of a folder, Parquet files, WebDataset tars or a list of paths, to Parquet.

    OUT/predictions holds the shards, OUT/quarantine.jsonl the rows that could not be scored, OUT/summary.json what came
    of it; where the source names classes, accuracy and confusion.png too. Run it again after a kill, a full disk or
    too many errors: it goes on, and ends with what an uninterrupted run would have written.

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
        shown = _Shown(bar)
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
            on_begin=shown.begin,
            on_rows=shown.update,
        )
    _report(out, summary, predictor.bundle.labels)


def _check_engine(engine: str, *, workers: int | None, **of_ray: object) -> None:
    """That every option given is one of this engine."""
    if engine not in {"local", "ray"}:
        raise ConfigError(f"--engine is {engine!r}, expected local or ray")
    given = [f"--{name}" for name, value in of_ray.items() if value is not None]
    if engine == "local" and given:
        raise ConfigError(f"{', '.join(given)} without --engine ray; add that, or leave them out")
    if engine == "ray" and workers is not None:
        raise ConfigError(
            f"--workers is {workers} with --engine ray, whose actors decode; leave it out, or add --actors"
        )


class _Shown:
    """The bar: rows, rows a second, errors; a line now and then where there is no terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("reading the source", total=None, shown="")
        self._begun = self._errors = 0
        self._next_line = time.monotonic() + _LOG_SECONDS

    def begin(self, begun: Begun) -> None:
        self._begun, self._errors = begun.rows, begun.errors
        self._bar.reset(self._task, description="scoring", total=begun.total, completed=begun.rows)

    def update(self, rows: int, errors: int) -> None:
        task = self._bar.tasks[self._task]
        done = int(task.completed) + rows
        self._errors += errors
        rate = (done - self._begun) / max(task.elapsed or 0, 1e-3)
        shown = f"{done:,} rows  {rate:,.0f}/s  {self._errors:,} errors"
        self._bar.update(self._task, advance=rows, shown=shown)
        if not self._bar.console.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LOG_SECONDS
            self._bar.console.print(shown, markup=False, highlight=False)


def _report(out: Path, summary: Summary, labels: Labels) -> None:
    typer.echo(f"{out / PREDICTIONS}: {summary.rows:,} rows")
    if summary.errors:
        typer.echo(f"{out / QUARANTINE}: {summary.errors:,} rows that could not be scored")
    if summary.accuracy is None or summary.confusion is None:
        return
    typer.echo(f"accuracy {summary.accuracy}")
    if importlib.util.find_spec("matplotlib") is None:
        typer.echo("no picture of the confusion: that needs matplotlib: pip install 'abnn_serve[score]'")
        return
    from abnn_serve.scoring.confusion import draw_confusion

    draw_confusion(summary.confusion, summary.accuracy, labels, out / "confusion.png")
    typer.echo(f"{out / 'confusion.png'}: true classes and answers")
