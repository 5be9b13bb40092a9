"""The output directory of a run: its lock, its configuration, and the record of its finished shards.

    run.json                        the configuration; a run with another one needs another directory
    done.jsonl                      one line per finished shard
    predictions/part-000000.parquet the shards, each renamed into place when it is complete and synced

A shard counts as finished if done.jsonl lists it and its file has the listed size. All others are scored again, which
gives the same bytes, so a kill at any point costs only the unfinished shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import ScoringError, one_line
from abnn_serve.files import PARTIAL
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.scoring.plan import Plan
from abnn_serve.scoring.scorer import Columns
from abnn_serve.scoring.shard import PREDICTIONS, FinishedShard, disk_errors, shard_path, write_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """Everything that the output depends on; stored as run.json.

    Attributes:
        source: digest of the plan.
        shard_rows: rows per shard.
        parquet_column: Parquet column with the encoded samples.
        bundle: digest of the bundle.
        precision: precision of the graph.
        limits: the image limits, or the video limits if the bundle classifies videos; larger samples become errors.
        columns: fields of `Columns`.
    """

    source: str
    shard_rows: int
    parquet_column: str
    bundle: str
    precision: str
    limits: dict[str, int | float]
    columns: dict[str, bool | int | str]

    @classmethod
    def of(cls, plan: Plan, predictor: Predictor, columns: Columns) -> ScoringConfig:
        """The configuration of a run on `plan`."""
        is_video = predictor.bundle.manifest.input.modality == "video"
        limits = asdict(predictor.video_limits if is_video else predictor.limits)
        if not is_video:
            del limits["decode_seconds"]  # so that runs of older versions, which had none for images, resume
        return cls(
            source=plan.digest,
            shard_rows=plan.shard_rows,
            parquet_column=plan.column,
            bundle=predictor.bundle.digest,
            precision=predictor.session.precision,
            limits=limits,
            columns=asdict(columns),
        )


class Ledger:
    """The finished shards of an output directory that this process has locked; opened by `open_ledger`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: dict[int, FinishedShard] = {}
        for shard in self._read_lines():
            if _size(shard_path(folder, shard.unit)) == shard.bytes:
                self.done[shard.unit] = shard
        self.clean_up()

    @property
    def errors(self) -> int:
        """Rows with an error in the finished shards."""
        return sum(shard.errors for shard in self.done.values())

    @property
    def rows(self) -> int:
        """Rows in the finished shards."""
        return sum(shard.rows for shard in self.done.values())

    def add(self, shard: FinishedShard) -> None:
        """Record a finished shard, whose file must be in place."""
        with disk_errors(self.folder), (self.folder / "done.jsonl").open("ab") as out:
            out.write(_line(shard))
            out.flush()
            os.fsync(out.fileno())
        self.done[shard.unit] = shard

    def check_errors(self, max_errors: int | None) -> None:
        """Raise ScoringError if the finished shards have more than `max_errors` errors; None allows any number."""
        if max_errors is not None and self.errors > max_errors:
            raise ScoringError(
                f"{self.folder}: {self.errors:,} rows have errors, --max-errors allows {max_errors:,}; "
                "see quarantine.jsonl, or run again with a higher limit to continue"
            )

    def clean_up(self) -> None:
        """Rewrite done.jsonl without torn or outdated lines, and delete the files of unfinished shards."""
        for partial in (self.folder / PREDICTIONS).glob(f".*{PARTIAL}"):
            partial.unlink()
        write_file(self.folder / "done.jsonl", b"".join(_line(self.done[unit]) for unit in sorted(self.done)))

    def _read_lines(self) -> Iterator[FinishedShard]:
        path = self.folder / "done.jsonl"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                value = json.loads(line)
            except ValueError:  # torn by a kill; that shard is scored again
                continue
            yield from_json(FinishedShard, value, str(path), ScoringError)


@contextmanager
def open_ledger(folder: Path, config: ScoringConfig) -> Iterator[Ledger]:
    """Create or resume an output directory, locked until the context or the process ends.

    Raises:
        ScoringError: another run is writing to the directory, or it holds the output of another configuration.
    """
    with disk_errors(folder):
        (folder / PREDICTIONS).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            _check_config(folder, config)
            yield Ledger(folder)
    except Timeout as error:
        raise ScoringError(f"{folder}: another run is writing here; wait for it, or choose another --out") from error


def _check_config(folder: Path, config: ScoringConfig) -> None:
    path, wanted = folder / "run.json", to_json(config)
    if not path.exists():
        if any((folder / PREDICTIONS).iterdir()):
            raise ScoringError(f"{folder} holds predictions of an unknown run (no run.json); choose another --out")
        write_file(path, canonical(wanted))
        return
    try:
        stored: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ScoringError(f"{path} is damaged: {one_line(error)}; choose another --out") from error
    for key, value in wanted.items():
        if stored.get(key) != value:
            raise ScoringError(
                f"{folder} was started with {key} = {_shorten(stored.get(key))}, now it is {_shorten(value)}; "
                "use the same options, or choose another --out"
            )


def _line(shard: FinishedShard) -> bytes:
    return json.dumps(to_json(shard), sort_keys=True).encode() + b"\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
