"""Units to shards: decoding ahead, predicting, writing behind; what both engines run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from abnn_serve.scoring.decode import DecodePool
from abnn_serve.scoring.ledger import Ledger
from abnn_serve.scoring.plan import Plan, Row, Source, Unit
from abnn_serve.scoring.scorer import Scorer
from abnn_serve.scoring.shard import Done, ShardWriter

_WRITES_BEHIND = 16

Seen = Callable[[int, int], None]  # told of rows that were answered, and of the errors among them


def score_units(
    source: Source, units: Iterable[Unit], scorer: Scorer, pool: DecodePool, folder: Path, on_rows: Seen
) -> Generator[Done, None, None]:
    """Score units in their order; each is yielded when its shard is in place.

    A unit's rows go to the predictor in the same batches whoever runs it and whatever ran before, so that its shard is
    the same bytes each time.
    """
    with closing(_Behind()) as behind:
        chunks = _chunks(source, units, scorer.predictor.session.max_batch)
        for unit, parts in groupby(pool.map(chunks), key=lambda part: part[0]):
            shard = behind.open(ShardWriter(folder, unit.index, scorer.schema))
            for _, rows, decoded in parts:
                if rows:
                    batch = scorer(rows, decoded)
                    behind.submit(shard.write, batch)
                    on_rows(len(batch), len(batch) - batch["error"].null_count)
                yield from behind.settled(_WRITES_BEHIND)
            behind.submit(shard.finish)
        yield from behind.settled(0)


def score_here(
    plan: Plan, scorer: Scorer, ledger: Ledger, *, workers: int, max_errors: int | None, on_rows: Seen
) -> None:
    """The local engine: score the units that are not done, decoding in `workers` processes.

    Raises:
        ScoringError: more than `max_errors` bad rows in all, or the disk is full; finished shards are kept.
    """
    ledger.hold(max_errors)
    left = [unit for unit in plan.units if unit.index not in ledger.done]
    with (
        DecodePool(scorer.decoder, workers if left else 0) as pool,
        closing(score_units(plan.source, left, scorer, pool, ledger.folder, on_rows)) as finished,
    ):
        for done in finished:
            ledger.add(done)
            ledger.hold(max_errors)


def _chunks(source: Source, units: Iterable[Unit], size: int) -> Iterator[tuple[Unit, list[Row]]]:
    for unit in units:
        rows = source.read(unit)
        while chunk := list(islice(rows, size)):
            yield unit, chunk
        yield unit, []  # a unit without rows is a shard too


class _Behind:
    """Writes in a thread of its own; what was not finished when it is closed is dropped."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._writes: deque[Future[Done | None]] = deque()
        self._shards: deque[ShardWriter] = deque()

    def open(self, shard: ShardWriter) -> ShardWriter:
        """Answer for a shard until it is finished."""
        self._shards.append(shard)
        return shard

    def submit(self, write: Callable[..., Done | None], *arguments: Any) -> None:
        """Write after what was submitted before."""
        self._writes.append(self._thread.submit(write, *arguments))

    def settled(self, most: int) -> Iterator[Done]:
        """Wait until at most so many writes are under way; yields the shards that are in place by then."""
        while len(self._writes) > most:
            done = self._writes.popleft().result()
            if done:
                self._shards.popleft()
                yield done

    def close(self) -> None:
        """Stop, and leave nothing unfinished behind."""
        self._thread.shutdown(cancel_futures=True)
        for shard in self._shards:
            shard.drop()
