"""The Ray engine: distributes units over a pool of actors with Ray Data; each actor runs the local engine's loop.

Only units and the records of finished shards travel, never pixels or predictions. An actor reads its own units and
writes its own shards, so the order, retries and losses of Ray Data cannot affect the output.
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
from abnn_serve.scoring.engine import OnRows, score_units
from abnn_serve.scoring.ledger import Ledger
from abnn_serve.scoring.plan import Plan, Source
from abnn_serve.scoring.scorer import Columns, Scorer
from abnn_serve.scoring.shard import FinishedShard

_HINT = "; is it running? If it requires a token, set RAY_AUTH_MODE=token: Ray sends none by default"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPool:
    """A pool of Ray actors.

    Attributes:
        address: address of a cluster, as for `ray.init`; None uses the Ray of this process, or starts a local one.
        actors: number of actors; each has its own predictor.
        cpus: cores per actor, which are also the threads of its predictor.
        gpus: GPUs per actor; actors with fractions share a GPU.
        device: device of every actor; `auto` is CUDA for actors with GPUs, otherwise the CPU.
    """

    address: str | None = None
    actors: int = 1
    cpus: int = 1
    gpus: float = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.actors < 1 or self.cpus < 1 or self.gpus < 0:
            raise ConfigError(
                f"the pool has {self.actors} actors with {self.cpus} cores and {self.gpus} GPUs each; "
                "expected at least 1, 1 and 0"
            )
        if self.device in {"cuda", "tensorrt"} and not self.gpus:
            raise ConfigError(f"ABNN_DEVICE is {self.device!r}, but --gpus is 0; add --gpus 1")
        if self.device in {"cpu", "openvino"} and self.gpus:
            raise ConfigError(
                f"ABNN_DEVICE is {self.device!r}, but --gpus is {self.gpus:g}; drop --gpus or set ABNN_DEVICE=cuda"
            )

    @property
    def actor_device(self) -> Device:
        """The device of an actor: `auto` must not fall back to the CPU on an actor that has GPUs."""
        if self.device == "auto":
            return "cuda" if self.gpus else "cpu"
        return self.device


def score_on_ray(
    plan: Plan, scorer: Scorer, ledger: Ledger, pool: RayPool, *, max_errors: int | None, on_rows: OnRows
) -> None:
    """Score the unfinished units on Ray actors.

    Args:
        plan: the units.
        scorer: supplies the columns and the bundle, which every node must see at the same path.
        ledger: of the output directory, which every node must see at the same path.
        pool: the actors.
        max_errors: stop after more than this many errors, counted per finished shard.
        on_rows: called with the rows and errors of each finished shard.

    Raises:
        ScoringError: as `score_locally`, or Ray fails or does not return every unit.
    """
    ledger.check_errors(max_errors)
    pending = {unit.index: unit for unit in plan.units if unit.index not in ledger.done}
    if not pending:
        return
    ray, started = _start(pool)
    try:
        dataset = ray.data.from_items([{"unit": unit} for unit in pending.values()], override_num_blocks=len(pending))
        records = dataset.map_batches(
            _Actor,
            fn_constructor_args=(plan.source, _settings(scorer, pool), scorer.columns, ledger.folder.absolute()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        for record in records.iter_rows():
            if problem := record.pop("problem"):
                raise ScoringError(problem)
            shard = FinishedShard(**record)
            ledger.add(shard)
            on_rows(shard.rows, shard.errors)
            ledger.check_errors(max_errors)
            pending.pop(shard.unit, None)
    except ray.exceptions.RayError as error:
        raise ScoringError(f"Ray failed: {one_line(error)}; finished shards are kept: run again to continue") from error
    finally:
        if started:
            ray.shutdown()
    if pending:  # Ray Data has dropped rows without an error (ray-project/ray issue 51188)
        raise ScoringError(
            f"{ledger.folder}: Ray returned no result for {len(pending):,} shards; run again to continue"
        )


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
    """Import Ray and connect to it; returns the module, and whether this call made the connection."""
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
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray retries actors that die
        options |= {"num_cpus": pool.actors * pool.cpus, "include_dashboard": False}
    start = not ray.is_initialized()
    try:
        if start:
            ray.init(address=pool.address or "local", **options)
    except Exception as error:  # Ray also raises built-in exceptions
        raise ScoringError(
            f"cannot start Ray on this machine: {one_line(error)}"
            if pool.address is None
            else f"cannot connect to Ray at {pool.address}: {one_line(error)}{_HINT}"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray, start


class _Actor:
    """Scores units with its own predictor; Ray Data keeps a pool of actors and replaces those that die."""

    def __init__(self, source: Source, settings: Settings, columns: Columns, folder: Path) -> None:
        self._source, self._settings, self._columns, self._folder = source, settings, columns, folder

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(Predictor.from_settings(self._settings, drift=self._columns.drift), self._columns)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (unit,) = batch["unit"]
        shard, problem = FinishedShard(unit=unit.index, rows=0, errors=0, bytes=0), ""
        try:
            pool = DecodePool(self._scorer.decoder, 0)
            (shard,) = score_units(self._source, [unit], self._scorer, pool, self._folder, lambda *_: None)
        except (AbnnError, OSError) as error:  # returned as a value, because Ray rewrites exceptions
            problem = one_line(error)
        return {key: [value] for key, value in {**asdict(shard), "problem": problem}.items()}
