"""The scoring loop of both engines: decodes units ahead, predicts, and writes shards in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from abnn_serve.scoring.decode import DecodePool
from abnn_serve.scoring.ledger import Ledger
from abnn_serve.scoring.plan import Plan, Row, Source, Unit
from abnn_serve.scoring.scorer import Scorer
from abnn_serve.scoring.shard import FinishedShard, ShardWriter

_MAX_PENDING_WRITES = 16
_CHUNK_BYTES = 32_000_000  # of encoded samples; one sample may be larger

OnRows = Callable[[int, int], None]  # called with the number of scored rows and the number of errors among them


def score_units(
    source: Source, units: Iterable[Unit], scorer: Scorer, pool: DecodePool, folder: Path, on_rows: OnRows
) -> Generator[FinishedShard, None, None]:
    """Score units in order; yields the record of each shard once its file is in place.

    A unit is cut into the same batches whichever process scores it, so its shard always has the same bytes.
    """
    with closing(_BackgroundWriter()) as writer:
        chunks = _chunks(source, units, scorer.predictor.session.max_batch)
        for unit, parts in groupby(pool.map(chunks), key=lambda part: part[0]):
            shard = writer.open(ShardWriter(folder, unit.index, scorer.schema))
            for _, rows, decoded in parts:
                if rows:
                    batch = scorer(rows, decoded)
                    writer.submit(shard.write, batch)
                    on_rows(len(batch), len(batch) - batch["error"].null_count)
                yield from writer.wait(_MAX_PENDING_WRITES)
            writer.submit(shard.finish)
        yield from writer.wait(0)


def score_locally(
    plan: Plan, scorer: Scorer, ledger: Ledger, *, workers: int, max_errors: int | None, on_rows: OnRows
) -> None:
    """The local engine: score the unfinished units in this process, decoding in `workers` others.

    Raises:
        ScoringError: more than `max_errors` errors in all, or the disk is full; finished shards are kept.
    """
    ledger.check_errors(max_errors)
    units = [unit for unit in plan.units if unit.index not in ledger.done]
    with (
        DecodePool(scorer.decoder, workers if units else 0) as pool,
        closing(score_units(plan.source, units, scorer, pool, ledger.folder, on_rows)) as shards,
    ):
        for shard in shards:
            ledger.add(shard)
            ledger.check_errors(max_errors)


def _chunks(source: Source, units: Iterable[Unit], size: int) -> Iterator[tuple[Unit, list[Row]]]:
    for unit in units:
        chunk: list[Row] = []
        held = 0
        for row in source.read(unit):
            chunk.append(row)
            held += len(row.content) if isinstance(row.content, bytes) else 0
            if len(chunk) == size or held >= _CHUNK_BYTES:
                yield unit, chunk
                chunk, held = [], 0
        yield unit, chunk  # empty for a unit without rows, so that it gets a shard too


class _BackgroundWriter:
    """Runs the writes of shards in one thread; closing it discards unfinished shards."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._writes: deque[Future[FinishedShard | None]] = deque()
        self._shards: deque[ShardWriter] = deque()

    def open(self, shard: ShardWriter) -> ShardWriter:
        """Register a shard, to discard it if it is unfinished on close."""
        self._shards.append(shard)
        return shard

    def submit(self, write: Callable[..., FinishedShard | None], *arguments: Any) -> None:
        """Queue a write."""
        self._writes.append(self._thread.submit(write, *arguments))

    def wait(self, max_pending: int) -> Iterator[FinishedShard]:
        """Wait until at most `max_pending` writes are queued; yields the shards finished meanwhile."""
        while len(self._writes) > max_pending:
            shard = self._writes.popleft().result()
            if shard:
                self._shards.popleft()
                yield shard

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        for shard in self._shards:
            shard.discard()
