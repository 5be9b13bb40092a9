"""The Ray engine: units over a pool of actors, scheduled by Ray Data; every actor does what the local engine does.

What travels is units and the records of finished shards, never pixels or predictions: an actor reads its units itself
and puts their shards in place itself, so that Ray's order, retries and losses cannot show in the output.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from abnn_serve.errors import AbnnError, ConfigError, ScoringError, one_line
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Device, Settings
from abnn_serve.scoring.decode import DecodePool
from abnn_serve.scoring.engine import Seen, score_units
from abnn_serve.scoring.ledger import Ledger
from abnn_serve.scoring.plan import Plan, Source
from abnn_serve.scoring.scorer import Columns, Scorer
from abnn_serve.scoring.shard import Done

_HINT = "; is it running there? Where it asks for a token, set RAY_AUTH_MODE=token: Ray sends none by itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPool:
    """Where to run, and on how many.

    Attributes:
        address: of a cluster, as `ray.init` takes it; None starts Ray on this machine, or joins what this process has.
        actors: each with a predictor of its own.
        cpus: cores of one actor; its predictor has as many threads.
        gpus: of one actor; parts share a GPU.
        device: of every actor; `auto` is CUDA where an actor has GPUs, else the CPU.
    """

    address: str | None = None
    actors: int = 1
    cpus: int = 1
    gpus: float = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.actors < 1 or self.cpus < 1 or self.gpus < 0:
            raise ConfigError(
                f"the pool has {self.actors} actors of {self.cpus} cores and {self.gpus} GPUs, expected 1, 1, 0 or more"
            )
        if self.device in {"cuda", "tensorrt"} and not self.gpus:
            raise ConfigError(f"ABNN_DEVICE is {self.device!r} and --gpus is 0, expected more; give --gpus 1")
        if self.device in {"cpu", "openvino"} and self.gpus:
            raise ConfigError(
                f"ABNN_DEVICE is {self.device!r} and --gpus is {self.gpus:g}, expected 0; leave one of them out"
            )

    @property
    def actor_device(self) -> Device:
        """Where an actor runs: one that has GPUs must use them, whatever `auto` would fall back to."""
        if self.device == "auto":
            return "cuda" if self.gpus else "cpu"
        return self.device


def score_on_ray(
    plan: Plan, scorer: Scorer, ledger: Ledger, pool: RayPool, *, max_errors: int | None, on_rows: Seen
) -> None:
    """Score the units that are not done.

    Args:
        plan: what to score.
        scorer: whose bundle every node has at the same path, and whose columns are wanted.
        ledger: of the output directory, which every node has at the same path.
        pool: of actors.
        max_errors: bad rows past which it stops, counted by shard.
        on_rows: told of the rows and errors of every finished shard.

    Raises:
        ScoringError: as `score_here`, and where Ray does not give back every unit.
    """
    ledger.hold(max_errors)
    left = {unit.index: unit for unit in plan.units if unit.index not in ledger.done}
    if not left:
        return
    ray, own = _start(pool)
    try:
        dataset = ray.data.from_items([{"unit": unit} for unit in left.values()], override_num_blocks=len(left))
        finished = dataset.map_batches(
            _Actor,
            fn_constructor_args=(plan.source, _settings(scorer, pool), scorer.columns, ledger.folder.absolute()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        for row in finished.iter_rows():
            if problem := row.pop("problem"):
                raise ScoringError(problem)
            done = Done(**row)
            ledger.add(done)
            on_rows(done.rows, done.errors)
            ledger.hold(max_errors)
            left.pop(done.unit, None)
    except ray.exceptions.RayError as error:
        raise ScoringError(f"Ray gave up: {one_line(error)}; finished shards are kept: run again to go on") from error
    finally:
        if own:
            ray.shutdown()
    if left:  # Ray Data has lost rows without an error before
        raise ScoringError(f"{ledger.folder}: Ray gave no answer for {len(left):,} shards; run again to go on")


def _settings(scorer: Scorer, pool: RayPool) -> Settings:
    predictor = scorer.predictor
    return Settings(
        bundle=predictor.bundle.path.absolute(),
        digest=predictor.bundle.digest,
        device=pool.actor_device,
        precision=predictor.session.precision,
        threads=pool.cpus,
        limits=predictor.limits,
        video_limits=predictor.video_limits,
    )


def _start(pool: RayPool) -> tuple[Any, bool]:
    """Ray, and whether it was started, or joined, here."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs Ray ({error}); install it with: pip install 'abnn_serve[ray]'"
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if pool.address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # an actor's end is retried, not read about
        options |= {"num_cpus": pool.actors * pool.cpus, "include_dashboard": False}
    own = not ray.is_initialized()
    try:
        if own:
            ray.init(address=pool.address or "local", **options)
    except Exception as error:  # Ray raises plain ones too
        raise ScoringError(
            f"Ray does not start on {pool.address or 'this machine'}: {one_line(error)}{_HINT if pool.address else ''}"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray, own


class _Actor:
    """A predictor that scores units; Ray Data keeps a pool of them and makes a new one where one dies."""

    def __init__(self, source: Source, settings: Settings, columns: Columns, folder: Path) -> None:
        self._source, self._settings, self._columns, self._folder = source, settings, columns, folder

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(Predictor.from_settings(self._settings, drift=self._columns.drift), self._columns)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (unit,) = batch["unit"]
        done, problem = Done(unit=unit.index, rows=0, errors=0, bytes=0), ""
        try:
            pool = DecodePool(self._scorer.decoder, 0)
            (done,) = score_units(self._source, [unit], self._scorer, pool, self._folder, lambda *_: None)
        except (AbnnError, OSError) as error:  # a value, as Ray rewrites what is raised
            problem = one_line(error)
        return {key: [value] for key, value in {**asdict(done), "problem": problem}.items()}
