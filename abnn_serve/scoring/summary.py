"""The summary of a run, computed from its shards: counts, accuracy, confusion matrix and quarantine list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from abnn_serve.card import Accuracy
from abnn_serve.codec import canonical, to_json
from abnn_serve.files import atomic_write
from abnn_serve.scoring.ledger import Ledger
from abnn_serve.scoring.shard import disk_errors, shard_path, write_file
from abnn_serve.spec import Labels

QUARANTINE = "quarantine.jsonl"
_READ_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Totals over the finished shards.

    Attributes:
        rows: all rows.
        errors: rows that could not be classified.
        accuracy: over the classified rows whose true class is known; None if no true class is known.
        confusion: number of these rows by true class (row) and predicted class (column), in label order.
    """

    rows: int
    errors: int
    accuracy: Accuracy | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None


def summarise(ledger: Ledger, labels: Labels) -> Summary:
    """Summarise the finished shards; writes summary.json and quarantine.jsonl.

    quarantine.jsonl has a line for each row with an error, with the keys `id`, `path` and `error`; where rows are
    files, it is itself a source that can be scored again.
    """
    counts = np.zeros(len(labels) ** 2, np.int64)
    with disk_errors(ledger.folder), atomic_write(ledger.folder / QUARANTINE) as quarantine:
        for batch in _read(ledger, ["id", "source", "truth", "index", "error"]):
            labelled = batch.filter(pc.and_(pc.is_valid(batch["truth"]), pc.is_valid(batch["index"])))
            cells = labelled["truth"].to_numpy() * len(labels) + labelled["index"].to_numpy()
            counts += np.bincount(cells, minlength=len(counts))
            for row in batch.filter(pc.is_valid(batch["error"])).to_pylist():
                line = {"id": row["id"], "path": row["source"], "error": row["error"]}
                quarantine.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    confusion = counts.reshape(len(labels), len(labels))
    summary = Summary(rows=ledger.rows, errors=ledger.errors)
    if labelled_rows := int(confusion.sum()):
        summary = Summary(
            rows=ledger.rows,
            errors=ledger.errors,
            accuracy=Accuracy(correct=int(confusion.trace()), n=labelled_rows),
            confusion=tuple(map(tuple, confusion.tolist())),
        )
    write_file(ledger.folder / "summary.json", canonical(to_json(summary)))
    return summary


def _read(ledger: Ledger, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for unit in sorted(ledger.done):
        with pq.ParquetFile(shard_path(ledger.folder, unit)) as shard:
            yield from shard.iter_batches(batch_size=_READ_ROWS, columns=columns)
