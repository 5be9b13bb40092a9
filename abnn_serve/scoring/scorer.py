"""Scorer: decoded rows to rows of the output; the one code that every engine runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from abnn_serve.errors import ConfigError
from abnn_serve.runtime.predictor import Prediction, Predictor
from abnn_serve.scoring.decode import Decoded, Decoder
from abnn_serve.scoring.plan import Row

_TOP = pa.list_(pa.struct([("label", pa.string()), ("index", pa.int32()), ("probability", pa.float32())]))
_NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the output holds beside what it always does.

    Attributes:
        top_k: classes named for each row, at least 1.
        logits: a column with all of them.
        drift: columns with the distance of each row's statistics from clean data; the bundle must have recorded them.
        id: `path`, unique in the source, or `content`, its sha256.
    """

    top_k: int = 5
    logits: bool = False
    drift: bool = False
    id: Literal["path", "content"] = "path"

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}, expected at least 1")
        if self.id not in {"path", "content"}:
            raise ConfigError(f"--id is {self.id!r}, expected path or content")


class Scorer:
    """A predictor that answers rows.

    Attributes:
        schema: of the output. `truth` is the source's own class; of a row that could not be read, everything between
            `truth` and `error` is null.
    """

    def __init__(self, predictor: Predictor, columns: Columns) -> None:
        self.predictor, self.columns = predictor, columns
        self.schema = pa.schema(
            [
                ("id", pa.string()),
                ("source", pa.string()),
                ("truth", pa.int32()),
                ("label", _NAME),
                ("index", pa.int32()),
                ("probability", pa.float32()),
                ("top", _TOP),
                *([("logits", pa.list_(pa.float32()))] if columns.logits else []),
                *([("drift", pa.float32()), ("drift_layers", pa.list_(pa.float32()))] if columns.drift else []),
                ("error", pa.string()),
                ("bundle", _NAME),
                ("provider", _NAME),
            ]
        )

    @property
    def decoder(self) -> Decoder:
        """What makes this predictor's input of rows."""
        predictor = self.predictor
        return Decoder(
            spec=predictor.bundle.manifest.input, limits=predictor.limits, video_limits=predictor.video_limits
        )

    def __call__(self, rows: Sequence[Row], decoded: Decoded) -> pa.RecordBatch:
        """One output row for each row, in order."""
        answers = iter(self._answers(decoded))
        found = [None if problem else next(answers) for problem in decoded.problems]
        ids = [
            digest if self.columns.id == "content" and digest else row.id
            for row, digest in zip(rows, decoded.digests, strict=True)
        ]
        values: dict[str, Iterable[Any]] = {
            "id": map(_text, ids),
            "source": (_text(row.source) for row in rows),
            "truth": (row.truth for row in rows),
            "label": (answer and answer.top[0].label for answer in found),
            "index": (answer and answer.top[0].index for answer in found),
            "probability": (answer and answer.top[0].probability for answer in found),
            "top": map(_top, found),
            "logits": (None if answer is None else answer.logits for answer in found),
            "drift": (None if answer is None or answer.drift is None else answer.drift.mean() for answer in found),
            "drift_layers": (None if answer is None else answer.drift for answer in found),
            "error": (_text(problem) or None for problem in decoded.problems),
            "bundle": [self.predictor.bundle.digest] * len(rows),
            "provider": [self.predictor.session.provider] * len(rows),
        }
        return pa.RecordBatch.from_arrays(
            [_array(list(values[field.name]), field.type) for field in self.schema], schema=self.schema
        )

    def _answers(self, decoded: Decoded) -> list[Prediction]:
        if self.predictor.bundle.manifest.input.sampling:
            return self.predictor.predict_videos(decoded.pixels, decoded.counts, top_k=self.columns.top_k)
        return self.predictor.predict(decoded.pixels, top_k=self.columns.top_k)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):  # the same names in the same order in every batch: one dictionary page in the file
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _top(answer: Prediction | None) -> list[dict[str, Any]] | None:
    if answer is None:
        return None
    return [{"label": c.label, "index": c.index, "probability": c.probability} for c in answer.top]


def _text(text: str) -> str:
    """Text that Parquet can hold: file names need not be Unicode."""
    return text.encode(errors="backslashreplace").decode()
