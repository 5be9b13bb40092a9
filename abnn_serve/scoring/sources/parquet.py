"""Parquet files: encoded samples in one column, optionally labels in another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import DataError, one_line
from abnn_serve.scoring.plan import LabelMap, Row, Source, SourceFile, Unit
from abnn_serve.scoring.sources.filesystem import open_at
from abnn_serve.scoring.sources.parquet_rows import Value, read_from
from abnn_serve.spec import Labels

_CONCURRENT_OPENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetUnit(Unit):
    """The rows from `start` to `stop` of one file; for a file that cannot be opened, one row with the `problem`."""

    file: SourceFile
    start: int = 0
    stop: int = 1
    problem: str = ""


class ParquetSource(Source):
    """Rows of Parquet files. Keeps its reader between consecutive units, to decode each row group only once."""

    def __init__(self, column: str, class_index: LabelMap, max_bytes: int) -> None:
        self._column, self._class_index, self._max_bytes = column, class_index, max_bytes
        self._open: tuple[str, int, Iterator[Value]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("_column", "_class_index", "_max_bytes")} | {"_open": None}

    def read(self, unit: Unit) -> Iterator[Row]:
        """Yield the rows; the rows of a damaged row group have a problem."""
        assert isinstance(unit, ParquetUnit)  # noqa: S101
        values = repeat((unit.problem, None)) if unit.problem else self._values(unit)
        missing = repeat((f"{unit.file.address} has fewer rows than at the start of the run", None))
        for number, (content, label) in zip(range(unit.start, unit.stop), chain(values, missing), strict=False):
            yield Row(
                id=f"{unit.file.name}#{number}",
                source=f"{unit.file.address}#{number}",
                content=content if isinstance(content, bytes) else b"",
                truth=self._class_index(label),
                problem=content if isinstance(content, str) else "",
            )
        self._open = unit.file.address, unit.stop, values

    def _values(self, unit: ParquetUnit) -> Iterator[Value]:
        previous, self._open = self._open, None
        if previous and previous[:2] == (unit.file.address, unit.start):
            return previous[2]
        return read_from(unit.file.address, self._column, unit.start, self._max_bytes)


def plan_parquet(
    files: Sequence[SourceFile], labels: Labels, shard_rows: int, column: str, max_bytes: int
) -> tuple[Source, list[Unit]]:
    """Plan units of at most `shard_rows` rows; a file that cannot be opened becomes one row with a problem.

    A sample of over `max_bytes` bytes becomes a row with a problem too.

    Raises:
        DataError: none of the files can be opened.
    """
    with ThreadPoolExecutor(_CONCURRENT_OPENS) as pool:
        counts = list(pool.map(lambda file: _inspect(file, column), files))
    if all(isinstance(count, DataError) for count, _ in counts):
        raise next(count for count, _ in counts if isinstance(count, DataError))
    units: list[Unit] = []
    for file, (count, _) in zip(files, counts, strict=True):
        if isinstance(count, DataError):
            units.append(ParquetUnit(index=len(units), rows=1, file=file, problem=str(count)))
            continue
        for part in batch_slices(count, shard_rows):
            rows = part.stop - part.start
            units.append(ParquetUnit(index=len(units), rows=rows, file=file, start=part.start, stop=part.stop))
    classes = next((names for _, names in counts if names), ())
    return ParquetSource(column, LabelMap(labels, classes), max_bytes), units


def _inspect(file: SourceFile, column: str) -> tuple[int | DataError, tuple[str, ...]]:
    """The number of rows of a file, or why it cannot be opened; and its class names."""
    try:
        with open_at(file.address) as data:
            parquet = pq.ParquetFile(data)
            count, schema, size = parquet.metadata.num_rows, parquet.schema_arrow, data.seek(0, os.SEEK_END)
    except Exception as error:  # Arrow and every file system have their own exceptions
        return DataError(f"{file.address}: not readable as Parquet: {one_line(error)}"), ()
    if count > size:
        return DataError(f"{file.address}: declares {count:,} rows in {size:,} bytes; write the file again"), ()
    kind = schema.field(column).type if column in schema.names else None
    if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return DataError(
            f"{file.address}: column {column!r} is {kind or 'missing'}, expected encoded samples as bytes; "
            f"choose another of {', '.join(schema.names)} with --column"
        ), ()
    return count, tuple((schema.metadata or {}).get(b"classes", b"").decode().splitlines())
