"""score: a source to a directory of predictions, each row exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.scoring.engine import Seen, score_here
from abnn_serve.scoring.ledger import Request, open_ledger
from abnn_serve.scoring.on_ray import RayPool, score_on_ray
from abnn_serve.scoring.scorer import Columns, Scorer
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.scoring.summary import Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Where a run begins: rows in all (None where only reading will tell), rows and errors that are done already."""

    total: int | None
    rows: int
    errors: int


def score(
    predictor: Predictor,
    source: str,
    out: Path,
    *,
    columns: Columns | None = None,
    column: str | None = None,
    shard_rows: int = 4096,
    workers: int = 0,
    ray: RayPool | None = None,
    max_errors: int | None = None,
    on_begin: Callable[[Begun], None] = lambda _: None,
    on_rows: Seen = lambda *_: None,
) -> Summary:
    """Classify every row of a source, or what an earlier call with the same arguments has left.

    Args:
        predictor: answers.
        source: see `open_source`.
        out: directory of the output; see `ledger` and `summary` for what is in it.
        columns: of the output.
        column: of the encoded samples in Parquet; `image` or `video`, as the bundle takes them, if None.
        shard_rows: rows of one shard.
        workers: processes that decode; 0 decodes in this one.
        ray: runs on a pool of Ray actors instead, each decoding for itself.
        max_errors: bad rows past which it stops; None for no limit.
        on_begin: told where it begins.
        on_rows: told of rows that were answered, and of the errors among them.

    Raises:
        DataError: the source cannot be read.
        ScoringError: `out` is in use or holds something else, the disk is full, or too many rows are bad.
    """
    labels, columns = predictor.bundle.labels, columns or Columns()
    modality = predictor.bundle.manifest.input.modality
    plan = open_source(source, labels, modality=modality, shard_rows=shard_rows, column=column, out=out)
    with open_ledger(out, Request.of(plan, predictor, columns)) as ledger:
        on_begin(Begun(total=plan.rows, rows=ledger.rows, errors=ledger.errors))
        try:
            scorer = Scorer(predictor, columns)
            if ray:
                score_on_ray(plan, scorer, ledger, ray, max_errors=max_errors, on_rows=on_rows)
            else:
                score_here(plan, scorer, ledger, workers=workers, max_errors=max_errors, on_rows=on_rows)
        finally:
            ledger.tidy()
            summary = summarise(ledger, labels)
    return summary
