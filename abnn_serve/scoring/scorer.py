"""Scorer: classifies decoded rows and builds the output rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from abnn_serve.errors import ConfigError
from abnn_serve.runtime.predictions import Prediction
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.scoring.decode import Decoded, Decoder
from abnn_serve.scoring.plan import Row

_TOP = pa.list_(pa.struct([("label", pa.string()), ("index", pa.int32()), ("probability", pa.float32())]))
_NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Options for the output columns.

    Attributes:
        top_k: number of classes in the column `top`, at least 1.
        logits: add the column `logits`.
        drift: add the columns `drift` and `drift_layers`; the bundle must have a drift graph.
        id: row ids are the `path`, unique in the source, or the sha256 of the `content`.
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
    """Classifies rows and builds their output.

    Attributes:
        schema: of the output. In a row with an error, the columns between `truth` and `error` are null.
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
        """A decoder for this predictor's input and limits."""
        predictor = self.predictor
        return Decoder(
            spec=predictor.bundle.manifest.input, limits=predictor.limits, video_limits=predictor.video_limits
        )

    def __call__(self, rows: Sequence[Row], decoded: Decoded) -> pa.RecordBatch:
        """Classify rows; returns one output row per row, in order."""
        predicted = iter(self._predict(decoded))
        answers = [None if problem else next(predicted) for problem in decoded.problems]
        ids = [
            digest if self.columns.id == "content" and digest else row.id
            for row, digest in zip(rows, decoded.digests, strict=True)
        ]
        values: dict[str, Iterable[Any]] = {
            "id": map(_text, ids),
            "source": (_text(row.source) for row in rows),
            "truth": (row.truth for row in rows),
            "label": (answer and answer.top[0].label for answer in answers),
            "index": (answer and answer.top[0].index for answer in answers),
            "probability": (answer and answer.top[0].probability for answer in answers),
            "top": map(_top, answers),
            "logits": (None if answer is None else answer.logits for answer in answers),
            "drift": (None if answer is None or answer.drift is None else answer.drift.mean() for answer in answers),
            "drift_layers": (None if answer is None else answer.drift for answer in answers),
            "error": (_text(problem) or None for problem in decoded.problems),
            "bundle": [self.predictor.bundle.digest] * len(rows),
            "provider": [self.predictor.session.provider] * len(rows),
        }
        return pa.RecordBatch.from_arrays(
            [_array(list(values[field.name]), field.type) for field in self.schema], schema=self.schema
        )

    def _predict(self, decoded: Decoded) -> list[Prediction]:
        if self.predictor.bundle.manifest.input.sampling:
            return self.predictor.predict_videos(decoded.pixels, decoded.counts, top_k=self.columns.top_k)
        return self.predictor.predict(decoded.pixels, top_k=self.columns.top_k)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):  # one dictionary page per file needs the same order in every batch
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _top(answer: Prediction | None) -> list[dict[str, Any]] | None:
    if answer is None:
        return None
    return [{"label": c.label, "index": c.index, "probability": c.probability} for c in answer.top]


def _text(text: str) -> str:
    """Make text valid Unicode, as Parquet requires: file names may not be."""
    return text.encode(errors="backslashreplace").decode()
