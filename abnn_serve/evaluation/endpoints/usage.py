"""What an evaluation asked of an endpoint, kept on disk so that interrupted calls count too."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.files import atomic_write

_WRITTEN_EVERY = 200  # queries


class Usage:
    """Counts of an endpoint's queries and answers; threads may share it.

    Args:
        path: file that keeps the counts; they go on from those in it.
        limit: queries allowed in all.

    Attributes:
        first_answers: logits of the first images, by a digest of the model and of how it is asked.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self._path, self._limit = path, limit
        self._lock = threading.Lock()
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.queries = int(kept.get("queries", 0))
        self.requests = int(kept.get("requests", 0))
        self.waited = float(kept.get("waited", 0.0))
        self.answers: Counter[str] = Counter(kept.get("answers", {}))
        self.first_answers: dict[str, list[list[float]]] = kept.get("first_answers", {})
        self._unwritten = 0

    def spend(self, images: int) -> None:
        """Count images that are about to be sent; ConfigError if that would exceed the limit."""
        with self._lock:
            if self._limit is not None and self.queries + images > self._limit:
                self._write()
                raise ConfigError(
                    f"the budget of {self._limit:,} queries is spent; finished batches are kept: run the command again "
                    "with a larger --max-queries to resume"
                )
            self.queries += images
            self._unwritten += images
            if self._unwritten >= _WRITTEN_EVERY:
                self._write()

    def answered(self, what: str) -> None:
        """Count one request and what the endpoint answered: an HTTP status, or why there was none."""
        with self._lock:
            self.requests += 1
            self.answers[what] += 1

    def wait(self, seconds: float) -> None:
        """Count seconds that the endpoint asked to wait."""
        with self._lock:
            self.waited += seconds

    def save(self) -> None:
        """Write the counts."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        names = ("queries", "requests", "waited", "answers", "first_answers")
        with atomic_write(self._path) as file:
            file.write(json.dumps({name: getattr(self, name) for name in names}).encode())
        self._unwritten = 0
