"""Reads the rows of one Parquet file; no page and no value takes more memory than the file's size justifies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from abnn_serve.errors import one_line
from abnn_serve.scoring.sources.filesystem import open_at
from abnn_serve.scoring.sources.parquet_pages import CheckedFile

_READ_ROWS = 256
_READ_BYTES = 32_000_000  # of samples, from one call to the next
_MAX_LABEL_BYTES = 1_000

Value = tuple[bytes | str, Any]  # encoded bytes or, as text, the problem; and the label


def read_from(address: str, column: str, start: int, max_bytes: int) -> Iterator[Value]:
    """Yield the rows from `start` on, a problem without end if the file cannot be opened; holds few rows in memory."""
    with ExitStack() as stack:
        try:
            whole = pq.ParquetFile(stack.enter_context(open_at(address)))
            leaves = [_Leaf(stack, address, whole, name) for name in _leaves(whole.schema_arrow, column)]
        except Exception as error:  # the file has changed since the run was planned
            yield from repeat((f"{address}: cannot be read any more: {one_line(error)}", None))
            return
        first = 0
        for group in range(whole.num_row_groups):
            metadata = whole.metadata.row_group(group)
            count = metadata.num_rows
            if first + count > start:
                rows = _read_group(leaves, group, count, metadata.total_byte_size // max(1, count), max_bytes)
                yield from islice(rows, max(start - first, 0), None)
            first += count


def _leaves(schema: pa.Schema, column: str) -> list[str]:
    """The columns to read: the samples' bytes and, if labels have a type that a class can have, the labels."""
    sample = f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column
    label = _type(schema, "label") if "label" in schema.names else pa.null()
    kinds = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    return [sample, *(["label"] if any(is_kind(label) for is_kind in kinds) else [])]


def _type(schema: pa.Schema, leaf: str) -> pa.DataType:
    name, _, part = leaf.partition(".")
    kind = schema.field(name).type
    kind = kind.field(part).type if part else kind
    return kind.value_type if pa.types.is_dictionary(kind) else kind


class _Leaf:
    """A column, read through a file of its own that checks its pages."""

    def __init__(self, stack: ExitStack, address: str, whole: pq.ParquetFile, name: str) -> None:
        self._name = name
        self._file = CheckedFile(stack.enter_context(open_at(address)))
        # as a dictionary, a value that many rows share is unpacked once
        texts = [] if pa.types.is_integer(_type(whole.schema_arrow, name)) else [name]
        self._parquet = pq.ParquetFile(
            self._file, metadata=whole.metadata, read_dictionary=texts, pre_buffer=False, buffer_size=1 << 20
        )

    def values(self, group: int, rows: int, limit: int) -> Iterator[Any]:
        """Yield the values of a row group, `rows` in memory at a time; those of over `limit` bytes as `_TooLong`."""
        self._file.watch()
        for batch in self._parquet.iter_batches(batch_size=rows, row_groups=[group], columns=[self._name]):
            array = batch.column(0)
            yield from _bounded(pc.struct_field(array, 0) if pa.types.is_struct(array.type) else array, limit)


def _read_group(leaves: Sequence[_Leaf], group: int, count: int, mean: int, max_bytes: int) -> Iterator[Value]:
    """Yield all `count` rows of a row group, of `mean` bytes; those that cannot be read as the text of the problem."""
    size = max(1, min(_READ_ROWS, _READ_BYTES // max(1, mean)))
    rows = 0
    try:
        labels = leaves[1].values(group, size, _MAX_LABEL_BYTES) if len(leaves) > 1 else repeat(None)
        for value, label in zip(leaves[0].values(group, size, max_bytes), labels, strict=False):
            if isinstance(value, _TooLong):
                yield f"the sample has {value.size:,} bytes, the limit is {max_bytes:,}", None
            else:
                yield value or b"", None if isinstance(label, _TooLong) else label
            rows += 1
    except Exception as error:  # Arrow and every file system have their own exceptions
        yield from repeat((f"row group {group} of the file is damaged: {one_line(error)}", None), count - rows)


@dataclass(frozen=True, slots=True)
class _TooLong:
    """Stands for a text or bytes of more than the limit."""

    size: int


def _bounded(array: pa.Array, limit: int) -> Iterator[Any]:
    """Yield Python values; texts and bytes over the limit as `_TooLong`, and values that rows share only once."""
    if not pa.types.is_dictionary(array.type) or pa.types.is_integer(array.type.value_type):
        yield from array.to_pylist()
        return
    values: dict[int, Any] = {}
    for index in array.indices.to_pylist():
        if index is not None and index not in values:
            size = pc.binary_length(array.dictionary[index]).as_py()
            values[index] = array.dictionary[index].as_py() if size <= limit else _TooLong(size)
        yield None if index is None else values[index]
