"""The output directory: who may write, what was asked, which shards are done.

    run.json                        what was asked; another question needs another directory
    done.jsonl                      a line for each finished shard
    predictions/part-000000.parquet written aside, synced, renamed: it is whole or it is not there

A shard is done when its line is there and its file has the size that the line says; else it is made again, which gives
the same bytes. So a kill at any point costs no more than the shard that was being written.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from abnn_serve.bundle.store import sync_directory, write_durably
from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import ScoringError, one_line
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.scoring.row import Plan
from abnn_serve.scoring.scorer import Columns

PREDICTIONS = "predictions"
_PARTIAL = ".partial"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished shard: which unit, how many rows, how many of them with an error, the size of its file."""

    unit: int
    rows: int
    errors: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that decides the output's rows; `source` is the plan's digest, `bundle` the bundle's."""

    source: str
    bundle: str
    precision: str
    units: int
    columns: dict[str, bool | int | str]

    @classmethod
    def of(cls, plan: Plan, predictor: Predictor, columns: Columns) -> Request:
        """What a run on `plan` asks."""
        return cls(
            source=plan.digest,
            bundle=predictor.bundle.digest,
            precision=predictor.session.precision,
            units=len(plan.units),
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
        for partial in (self.folder / PREDICTIONS).glob(f".*{_PARTIAL}"):
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
        with writing(folder):
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


def shard_path(folder: Path, unit: int) -> Path:
    """Where the shard of a unit belongs."""
    return folder / PREDICTIONS / f"part-{unit:06}.parquet"


class ShardWriter:
    """One shard, written aside until `finish` puts it in place; `drop` leaves nothing."""

    def __init__(self, folder: Path, unit: int, schema: pa.Schema) -> None:
        self._folder, self._unit = folder, unit
        self._path = shard_path(folder, unit)
        self._partial = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}{_PARTIAL}")
        self._rows = self._errors = 0
        with writing(folder):
            self._file: BinaryIO = self._partial.open("wb")
            self._parquet = pq.ParquetWriter(self._file, schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        with writing(self._folder):
            self._parquet.write_batch(batch)
        self._rows += len(batch)
        self._errors += len(batch) - batch["error"].null_count

    def finish(self) -> Done:
        """Sync and rename: from here on the shard is there, whole."""
        with writing(self._folder):
            self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._file.close()
            self._partial.replace(self._path)
            sync_directory(self._path.parent)
        return Done(unit=self._unit, rows=self._rows, errors=self._errors, bytes=size)

    def drop(self) -> None:
        """Leave nothing of an unfinished shard."""
        for part in (self._parquet, self._file):
            with suppress(OSError):  # a full disk, perhaps
                part.close()
        self._partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """A small file, whole or as it was."""
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    with writing(path.parent):
        write_durably(partial, data)
        partial.replace(path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """ScoringError, with what to do, where the disk is full or refuses."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ScoringError(
                f"{folder}: no space is left there; finished shards are kept: free some, and run again to go on"
            ) from error
        raise ScoringError(f"{folder}: cannot be written: {one_line(error)}") from error


def _line(done: Done) -> bytes:
    return json.dumps(to_json(done), sort_keys=True).encode() + b"\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
