"""The output directory: who may write, what was asked, which shards are done.

    run.json                        what was asked; another question needs another directory
    done.jsonl                      a line for each finished shard
    predictions/part-000000.parquet written aside, synced, renamed: it is whole or it is not there

A shard is done when its line is there and its file has the size that the line says; else it is made again, which gives
the same bytes. So a kill at any point costs no more than the shard that was being written.
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
from abnn_serve.scoring.shard import PREDICTIONS, Done, shard_path, write_whole, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that decides the output's rows.

    Attributes:
        source: the plan's digest.
        shard_rows: rows of one shard.
        parquet_column: of the encoded samples.
        bundle: its digest.
        precision: of the graph.
        limits: past which a picture, or a video where the bundle takes these, is a row with an error.
        columns: of the output.
    """

    source: str
    shard_rows: int
    parquet_column: str
    bundle: str
    precision: str
    limits: dict[str, int | float]
    columns: dict[str, bool | int | str]

    @classmethod
    def of(cls, plan: Plan, predictor: Predictor, columns: Columns) -> Request:
        """What a run on `plan` asks."""
        of_videos = predictor.bundle.manifest.input.modality == "video"
        return cls(
            source=plan.digest,
            shard_rows=plan.shard_rows,
            parquet_column=plan.column,
            bundle=predictor.bundle.digest,
            precision=predictor.session.precision,
            limits=asdict(predictor.video_limits if of_videos else predictor.limits),
            columns=asdict(columns),
        )


class Ledger:
    """An output directory that this process alone writes to; made by `open_ledger`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: dict[int, Done] = {}
        for done in self._lines():
            if _size(shard_path(folder, done.unit)) == done.bytes:
                self.done[done.unit] = done
        self.tidy()

    @property
    def errors(self) -> int:
        """Rows with an error in the finished shards."""
        return sum(done.errors for done in self.done.values())

    @property
    def rows(self) -> int:
        """Rows in the finished shards."""
        return sum(done.rows for done in self.done.values())

    def add(self, done: Done) -> None:
        """Count a shard as finished; its file must be in place."""
        with writing(self.folder), (self.folder / "done.jsonl").open("ab") as out:
            out.write(_line(done))
            out.flush()
            os.fsync(out.fileno())
        self.done[done.unit] = done

    def hold(self, max_errors: int | None) -> None:
        """ScoringError where the finished shards have more errors than are allowed; None allows any number."""
        if max_errors is not None and self.errors > max_errors:
            raise ScoringError(
                f"{self.folder}: {self.errors:,} rows could not be scored, --max-errors allows {max_errors:,}; "
                "quarantine.jsonl lists them; run again with a higher limit to go on"
            )

    def tidy(self) -> None:
        """Drop torn and outdated lines, and what is left of unfinished shards."""
        for partial in (self.folder / PREDICTIONS).glob(f".*{PARTIAL}"):
            partial.unlink()
        write_whole(self.folder / "done.jsonl", b"".join(_line(self.done[unit]) for unit in sorted(self.done)))

    def _lines(self) -> Iterator[Done]:
        path = self.folder / "done.jsonl"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                value = json.loads(line)
            except ValueError:  # torn by a kill: that shard is made again
                continue
            yield from_json(Done, value, str(path), ScoringError)


@contextmanager
def open_ledger(folder: Path, request: Request) -> Iterator[Ledger]:
    """The directory's ledger, locked until the end of the context, or of this process.

    Raises:
        ScoringError: another run is writing there, or it holds the answers to another request.
    """
    with writing(folder):
        (folder / PREDICTIONS).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            _check_request(folder, request)
            yield Ledger(folder)
    except Timeout as error:
        raise ScoringError(f"{folder}: another run is writing there; wait for it, or choose another --out") from error


def _check_request(folder: Path, request: Request) -> None:
    path, asked = folder / "run.json", to_json(request)
    if not path.exists():
        if any((folder / PREDICTIONS).iterdir()):
            raise ScoringError(f"{folder} holds predictions of something else (no run.json); choose another --out")
        write_whole(path, canonical(asked))
        return
    try:
        before: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise ScoringError(f"{path} is damaged: {one_line(error)}; choose another --out") from error
    for key, value in asked.items():
        if (found := before.get(key)) != value:
            raise ScoringError(
                f"{folder} was begun with another {key} ({_short(found)}, this run has {_short(value)}); "
                "choose another --out"
            )


def _line(done: Done) -> bytes:
    return json.dumps(to_json(done), sort_keys=True).encode() + b"\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
