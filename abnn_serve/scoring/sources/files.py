"""Rows that are files: a folder's, or those that a CSV or JSONL file lists."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import DataError, one_line
from abnn_serve.media import container, image
from abnn_serve.scoring.plan import Found, Row, Source, Truth, Unit
from abnn_serve.scoring.sources.filesystem import open_at
from abnn_serve.spec import Labels, Modality

SUFFIXES: dict[Modality, tuple[str, ...]] = {"image": image.SUFFIXES, "video": container.SUFFIXES}
LISTS = (".csv", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesUnit(Unit):
    """Rows whose content is the address of a file."""

    files: tuple[Row, ...]


class FileSource(Source):
    """Files, in the order in which they were found or listed."""

    def read(self, unit: Unit) -> Iterator[Row]:
        """The rows; their content is read where it is decoded."""
        assert isinstance(unit, FilesUnit)  # noqa: S101
        return iter(unit.files)


def plan_folder(files: Sequence[Found], labels: Labels, shard_rows: int) -> tuple[Source, list[Unit]]:
    """One row for each file; the name of its folder is its class, where the bundle knows it."""
    classes = {name: index for index, name in enumerate(labels.names)}
    rows = [
        Row(
            id=file.name,
            source=file.address,
            content=file.address,
            truth=classes.get(posixpath.basename(posixpath.dirname(file.address))),
        )
        for file in files
    ]
    return _plan(rows, shard_rows)


def plan_list(file: Found, content: bytes, labels: Labels, shard_rows: int) -> tuple[Source, list[Unit]]:
    """One row for each line of a list: column `path`, absolute, a URL or relative to the list, optionally `label`.

    Args:
        file: where the list is.
        content: its bytes, as `read_list` gives them.
        labels: of the bundle.
        shard_rows: rows of one unit.
    """
    table = _table(file, content)
    paths = table["path"].to_pylist()
    given = table["label"].to_pylist() if "label" in table.column_names else [None] * len(paths)
    truth, folder = Truth(labels), posixpath.dirname(file.address)
    rows = []
    for number, (path, label) in enumerate(zip(paths, given, strict=True)):
        address = path if path and ("://" in path or path.startswith("/")) else posixpath.join(folder, path or "")
        rows.append(
            Row(
                id=f"{file.name}#{number}",
                source=address,
                content=address,
                truth=truth(label),
                problem="" if path else "the list has no path here",
            )
        )
    return _plan(rows, shard_rows)


def _plan(rows: list[Row], shard_rows: int) -> tuple[Source, list[Unit]]:
    parts = [tuple(rows[part]) for part in batch_slices(len(rows), shard_rows)]
    return FileSource(), [FilesUnit(index=index, rows=len(part), files=part) for index, part in enumerate(parts)]


def read_list(file: Found) -> bytes:
    """The bytes of a list."""
    try:
        with open_at(file.address) as data:
            content: bytes = data.read()
    except Exception as error:  # every file system raises its own
        raise DataError(f"{file.address}: cannot be read: {one_line(error)}") from error
    return content


def _table(file: Found, content: bytes) -> pa.Table:
    try:
        if file.name.lower().endswith(".csv"):
            options = pa.csv.ConvertOptions(column_types={"path": pa.string()})
            table = pa.csv.read_csv(pa.BufferReader(content), convert_options=options)
        else:
            table = pa.json.read_json(pa.BufferReader(content))
    except pa.ArrowException as error:
        raise DataError(f"{file.address}: not readable as a list of files: {one_line(error)}") from error
    if "path" not in table.column_names or not pa.types.is_string(table.schema.field("path").type):
        raise DataError(
            f"{file.address}: has the columns {', '.join(table.column_names)}, expected `path`, optionally `label`"
        )
    return table
