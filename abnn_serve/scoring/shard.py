"""One output shard: a Parquet file, written under a temporary name, synced, then renamed into place."""

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
class FinishedShard:
    """Record of a finished shard: its unit, its rows, the errors among them, and the size of its file in bytes."""

    unit: int
    rows: int
    errors: int
    bytes: int


def shard_path(folder: Path, unit: int) -> Path:
    """Path of a unit's shard in the output directory."""
    return folder / PREDICTIONS / f"part-{unit:06}.parquet"


class ShardWriter:
    """Writes a shard to a temporary file, which `finish` renames into place and `discard` deletes."""

    def __init__(self, folder: Path, unit: int, schema: pa.Schema) -> None:
        self._folder, self._unit = folder, unit
        self._path = shard_path(folder, unit)
        self._partial = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}{PARTIAL}")
        self._rows = self._errors = 0
        with disk_errors(folder):
            self._file: BinaryIO = self._partial.open("wb")
            self._parquet = pq.ParquetWriter(self._file, schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        with disk_errors(self._folder):
            self._parquet.write_batch(batch)
        self._rows += len(batch)
        self._errors += len(batch) - batch["error"].null_count

    def finish(self) -> FinishedShard:
        """Sync the file and rename it into place."""
        with disk_errors(self._folder):
            self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._file.close()
            self._partial.replace(self._path)
            sync_directory(self._path.parent)
        return FinishedShard(unit=self._unit, rows=self._rows, errors=self._errors, bytes=size)

    def discard(self) -> None:
        """Close and delete the temporary file."""
        for part in (self._parquet, self._file):
            with suppress(OSError):  # closing flushes, which fails on a full disk
                part.close()
        self._partial.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Replace a small file atomically."""
    with disk_errors(path.parent), atomic_write(path) as file:
        file.write(data)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a ScoringError that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ScoringError(
                f"{folder}: the disk is full; finished shards are kept: free some space and run the command again"
            ) from error
        raise ScoringError(f"{folder}: cannot be written: {one_line(error)}") from error
