"""What the HTTP service refuses, and when: ABNN_* variables that only serving over HTTP reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from abnn_serve.errors import ConfigError
from abnn_serve.runtime.settings import read_count


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Limits of one worker process; each field is read from the variable ABNN_<its name in capitals>.

    Attributes:
        max_queue: requests being answered, and samples waiting for the session; past either 503 at once.
        max_batch: samples in one run of the session; None takes the smallest within 5% of the best throughput at start.
        max_parts: images in one request.
        max_connections: open at a time.
        max_buffered_bytes: of uploads in memory at a time.
        deadline_seconds: from the end of the upload to the answer.
        upload_seconds: that a body may take to arrive.
        header_seconds: that a request's head may take to arrive.
        drain_seconds: after SIGTERM in which new requests are still answered, on connections that then close.
        reload_seconds: between looks at the bundles on disk; 0 never looks.
        workers: processes; each has its own session and its own limits.
        api_key_file: file that `abnn key` writes; None lets everybody in.
    """

    max_queue: int = 256
    max_batch: int | None = None
    max_parts: int = 64
    max_connections: int = 1000
    max_buffered_bytes: int = 128_000_000
    deadline_seconds: int = 10
    upload_seconds: int = 20
    header_seconds: int = 10
    drain_seconds: int = 1
    reload_seconds: int = 5
    workers: int = 1
    api_key_file: Path | None = None

    def __post_init__(self) -> None:
        if self.max_parts > self.max_queue:
            raise ConfigError(
                f"ABNN_MAX_PARTS is {self.max_parts} and ABNN_MAX_QUEUE {self.max_queue}: a request with all its parts "
                "would never fit; raise the queue, or allow fewer parts"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ServiceSettings:
        """Read the variables that the README lists; ConfigError for a value that cannot be used."""
        found: dict[str, int | Path] = {}
        for field in fields(cls):
            name = f"ABNN_{field.name.upper()}"
            least = 0 if field.name in {"drain_seconds", "reload_seconds"} else 1
            if not environ.get(name, "").strip():
                continue
            value = Path(environ[name]) if field.name == "api_key_file" else read_count(environ, name, least)
            if value is not None:
                found[field.name] = value
        return cls(**found)  # type: ignore[arg-type]
