"""What an endpoint answers, as logits: scores, probabilities or labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import ConfigError
from abnn_serve.spec import Labels

Scores = Literal["logits", "probabilities", "labels"]

_LEAST = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How to read an endpoint's answers.

    Attributes:
        address: named in errors.
        scores: what it answers.
        classes: number of classes.
    """

    address: str
    scores: Scores
    classes: int

    @classmethod
    def learn(cls, address: str, answers: NDArray[Any], labels: Labels, *, labels_only: bool) -> Answers:
        """Recognise the first answers; ConfigError if they are none, or for another number of classes than `labels`."""
        classes = len(labels)
        if answers.ndim == 1 and answers.dtype.kind in "iu":
            return cls(address=address, scores="labels", classes=classes)
        if answers.ndim != 2 or answers.dtype.kind not in "fiu":
            raise ConfigError(
                f"{address} answers with {answers.dtype} of shape {answers.shape}, expected scores (n, classes) or "
                "labels (n,)"
            )
        if answers.shape[1] != classes:
            raise ConfigError(
                f"{address} answers with {answers.shape[1]} scores, but there are {classes} class names; give --labels "
                f"with {answers.shape[1]} names, one a line, in the order of the scores"
            )
        is_probability = bool((answers >= 0).all() and (np.abs(answers.sum(axis=1) - 1) < 0.01).all())
        scores: Scores = "labels" if labels_only else "probabilities" if is_probability else "logits"
        return cls(address=address, scores=scores, classes=classes)

    def logits(self, answers: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (n, classes) or labels (n,) to logits, float32 (n, classes).

        Those of probabilities are their logarithms, those of a label 0, and -1 for the other classes.
        """
        if answers.ndim == 1:
            if answers.min() < 0 or answers.max() >= self.classes:
                raise ConfigError(
                    f"{self.address} answers with class {answers.max()}, but there are {self.classes} class names; "
                    "give --labels with all of them, one a line"
                )
            return _as_logits(answers, self.classes)
        if answers.shape[1] != self.classes:
            raise ConfigError(
                f"{self.address} answers with {answers.shape[1]} scores, and with {self.classes} before: another model "
                "may have taken its place; start again with another --out"
            )
        if not np.isfinite(answers).all():
            raise ConfigError(f"{self.address} answers with scores that are not finite")
        if self.scores == "labels":
            return _as_logits(answers.argmax(axis=1), self.classes)
        values: NDArray[np.float32] = answers.astype(np.float32)
        return np.log(np.maximum(values, _LEAST)) if self.scores == "probabilities" else values

    def difference(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        """Largest difference of probabilities, or of logits relative to the largest, between two times of logits."""
        if self.scores == "probabilities":
            one, other = np.exp(one), np.exp(other)
        return float(np.abs(one - other).max() / max(1.0, float(np.abs(one).max())))


def _as_logits(labels: NDArray[Any], classes: int) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = np.eye(classes, dtype=np.float32)[labels] - 1
    return rows
