"""score(): classify every row of a source exactly once, into a directory of Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.scoring.engine import OnRows, score_locally
from abnn_serve.scoring.ledger import ScoringConfig, open_ledger
from abnn_serve.scoring.on_ray import RayPool, score_on_ray
from abnn_serve.scoring.scorer import Columns, Scorer
from abnn_serve.scoring.sources.open import open_source
from abnn_serve.scoring.summary import Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreProgress:
    """Progress of a run: total rows (None if not known in advance), rows scored so far, and errors among them."""

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
    allow_remote: bool = False,
    on_start: Callable[[ScoreProgress], None] = lambda _: None,
    on_rows: OnRows = lambda *_: None,
) -> Summary:
    """Classify every row of a source; a call with the arguments of an interrupted one resumes it.

    Args:
        predictor: classifies the rows.
        source: path, pattern or URL; see `open_source`.
        out: output directory; `ledger` and `summary` describe its files.
        columns: which columns to write.
        column: Parquet column with the encoded samples; None means `image` or `video`, according to the bundle.
        shard_rows: rows per shard.
        workers: number of decoding processes; 0 decodes in this process.
        ray: run on a pool of Ray actors, which decode their own rows.
        max_errors: stop after more than this many rows with errors; None means no limit.
        allow_remote: let a list name files outside its folder, and URLs; only for lists from people you trust.
        on_start: called once with the progress of earlier, interrupted calls.
        on_rows: called with the number of newly scored rows and the number of errors among them.

    Raises:
        DataError: the source cannot be read.
        ScoringError: `out` is in use or holds another run's output, the disk is full, or too many rows have errors.
    """
    labels, columns = predictor.bundle.labels, columns or Columns()
    modality = predictor.bundle.manifest.input.modality
    plan = open_source(
        source,
        labels,
        modality=modality,
        shard_rows=shard_rows,
        column=column,
        out=out,
        max_bytes=(predictor.limits if modality == "image" else predictor.video_limits).max_bytes,
        allow_remote=allow_remote,
    )
    with open_ledger(out, ScoringConfig.of(plan, predictor, columns)) as ledger:
        on_start(ScoreProgress(total=plan.rows, rows=ledger.rows, errors=ledger.errors))
        try:
            scorer = Scorer(predictor, columns)
            if ray:
                score_on_ray(plan, scorer, ledger, ray, max_errors=max_errors, on_rows=on_rows)
            else:
                score_locally(plan, scorer, ledger, workers=workers, max_errors=max_errors, on_rows=on_rows)
        finally:
            ledger.clean_up()
            summary = summarise(ledger, labels)
    return summary
