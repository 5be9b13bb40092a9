"""One shard of the output: written aside, synced, renamed; and writing small files in the same way."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from abnn_serve.errors import ScoringError, one_line
from abnn_serve.files import PARTIAL, atomic_write, sync_directory

PREDICTIONS = "predictions"
FILES = ("run.json", "done.jsonl", "quarantine.jsonl", "summary.json", "confusion.png")  # beside PREDICTIONS
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished shard: which unit, how many rows, how many of them with an error, the size of its file."""

    unit: int
    rows: int
    errors: int
    bytes: int


def shard_path(folder: Path, unit: int) -> Path:
    """Where the shard of a unit belongs."""
    return folder / PREDICTIONS / f"part-{unit:06}.parquet"


class ShardWriter:
    """One shard, written aside until `finish` puts it in place; `drop` leaves nothing."""

    def __init__(self, folder: Path, unit: int, schema: pa.Schema) -> None:
        self._folder, self._unit = folder, unit
        self._path = shard_path(folder, unit)
        self._partial = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}{PARTIAL}")
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
    with writing(path.parent), atomic_write(path) as file:
        file.write(data)


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
