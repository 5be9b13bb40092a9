"""Sources whose rows are files: the files of a folder, or those listed in a CSV or JSONL file."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import DataError, one_line
from abnn_serve.media import container, image
from abnn_serve.scoring.plan import LabelMap, Row, Source, SourceFile, Unit
from abnn_serve.scoring.sources.filesystem import is_beneath, outside, read_start
from abnn_serve.spec import Labels, Modality

SUFFIXES: dict[Modality, tuple[str, ...]] = {"image": image.SUFFIXES, "video": container.SUFFIXES}
LISTS = (".csv", ".jsonl", ".ndjson")
_MAX_LIST_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesUnit(Unit):
    """Rows whose content is the address of a file."""

    files: tuple[Row, ...]


class FileSource(Source):
    """Rows that are files, in name order or in the order of the list."""

    def read(self, unit: Unit) -> Iterator[Row]:
        """Yield the rows; the decoder reads their content."""
        assert isinstance(unit, FilesUnit)  # noqa: S101
        return iter(unit.files)


def plan_folder(files: Sequence[SourceFile], labels: Labels, shard_rows: int) -> tuple[Source, list[Unit]]:
    """Plan one row per file; its true class is the name of its folder, if the bundle has a class of that name."""
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


def plan_list(
    file: SourceFile, content: bytes, labels: Labels, shard_rows: int, *, allow_remote: bool = False
) -> tuple[Source, list[Unit]]:
    """Plan one row per line of a list with a column `path` (a URL, absolute or relative to the list), maybe `label`.

    Args:
        file: the list.
        content: its bytes, from `read_list`.
        labels: classes of the bundle.
        shard_rows: rows per unit.
        allow_remote: read any address that the list names, not only files inside the list's folder.

    Raises:
        DataError: not a list, or it names an address that is not allowed.
    """
    paths, truths = _columns(file, content)
    class_index, folder = LabelMap(labels), posixpath.dirname(file.address)
    rows = []
    for number, (path, label) in enumerate(zip(paths, truths, strict=True)):
        address = path if path and ("://" in path or path.startswith("/")) else posixpath.join(folder, path or "")
        if path and not allow_remote and not is_beneath(address, folder):
            raise DataError(f"row {number} of {file.name} names {outside(address, folder)}")
        rows.append(
            Row(
                id=f"{file.name}#{number}",
                source=address,
                content=address,
                truth=class_index(label),
                problem="" if path else "the list has no path in this row",
                within="" if allow_remote else folder,
            )
        )
    return _plan(rows, shard_rows)


def _plan(rows: list[Row], shard_rows: int) -> tuple[Source, list[Unit]]:
    parts = [tuple(rows[part]) for part in batch_slices(len(rows), shard_rows)]
    return FileSource(), [FilesUnit(index=index, rows=len(part), files=part) for index, part in enumerate(parts)]


def read_list(file: SourceFile) -> bytes:
    """Read the bytes of a list; raises DataError."""
    try:
        content = read_start(file.address, _MAX_LIST_BYTES + 1)
    except Exception as error:  # every file system has its own exceptions
        raise DataError(f"{file.address}: cannot be read: {one_line(error)}") from error
    if len(content) > _MAX_LIST_BYTES:
        raise DataError(f"{file.address} has over {_MAX_LIST_BYTES:,} bytes; split the list")
    return content


def _columns(file: SourceFile, content: bytes) -> tuple[list[str | None], list[Any]]:
    """The columns `path` and `label`; the labels are None where there is no such column."""
    try:
        if file.name.lower().endswith(".csv"):
            options = pa.csv.ConvertOptions(column_types={"path": pa.string()})
            table = pa.csv.read_csv(pa.BufferReader(content), convert_options=options)
        else:
            table = pa.json.read_json(pa.BufferReader(content))
        columns = {name: table[name].to_pylist() for name in ("path", "label") if table.column_names.count(name) == 1}
        is_text = "path" in columns and pa.types.is_string(table.schema.field("path").type)
        names = ", ".join(table.column_names)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file.address}: not readable as a list of files: {one_line(error)}") from error
    if not is_text:
        raise DataError(f"{file.address} has the columns {names}, expected `path` and optionally `label`")
    return columns["path"], columns.get("label") or [None] * len(columns["path"])
