"""What came of a run, read back from its shards: counts, accuracy, confusion, the quarantine list."""

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
from abnn_serve.scoring.shard import shard_path, write_whole, writing
from abnn_serve.spec import Labels

QUARANTINE = "quarantine.jsonl"
_READ_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the finished shards hold.

    Attributes:
        rows: all of them, of which `errors` could not be scored.
        accuracy: on the scored rows whose class the source names; None where it names none.
        confusion: how many of these are of one class (row) and were answered with another (column), in label order.
    """

    rows: int
    errors: int
    accuracy: Accuracy | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None


def summarise(ledger: Ledger, labels: Labels) -> Summary:
    """Read the finished shards; write summary.json, and quarantine.jsonl with a line for each row with an error.

    The lines name `id`, `path` and `error`, so that where rows are files the list is a source to score again.
    """
    counts = np.zeros(len(labels) ** 2, np.int64)
    with writing(ledger.folder), atomic_write(ledger.folder / QUARANTINE) as quarantine:
        for batch in _read(ledger, ["id", "source", "truth", "index", "error"]):
            known = batch.filter(pc.and_(pc.is_valid(batch["truth"]), pc.is_valid(batch["index"])))
            cells = known["truth"].to_numpy() * len(labels) + known["index"].to_numpy()
            counts += np.bincount(cells, minlength=len(counts))
            for row in batch.filter(pc.is_valid(batch["error"])).to_pylist():
                line = {"id": row["id"], "path": row["source"], "error": row["error"]}
                quarantine.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    confusion = counts.reshape(len(labels), len(labels))
    summary = Summary(rows=ledger.rows, errors=ledger.errors)
    if known_rows := int(confusion.sum()):
        summary = Summary(
            rows=ledger.rows,
            errors=ledger.errors,
            accuracy=Accuracy(correct=int(confusion.trace()), n=known_rows),
            confusion=tuple(map(tuple, confusion.tolist())),
        )
    write_whole(ledger.folder / "summary.json", canonical(to_json(summary)))
    return summary


def _read(ledger: Ledger, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for unit in sorted(ledger.done):
        with pq.ParquetFile(shard_path(ledger.folder, unit)) as shard:
            yield from shard.iter_batches(batch_size=_READ_ROWS, columns=columns)
