"""Settings of the HTTP service from ABNN_* environment variables."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from abnn_serve.errors import ConfigError
from abnn_serve.runtime.settings import read_count


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Settings of one worker process. The variable of each field is ABNN_ and the field's name in capitals.

    Attributes:
        max_queue: limit on requests in flight, and on samples queued for each bundle.
        max_batch: samples per session run; None takes the smallest batch within 5% of the best throughput at start-up.
        max_parts: images or samples per request.
        max_connections: open connections.
        max_connections_per_address: open connections of one client address; None takes a quarter of `max_connections`.
        max_buffered_bytes: bytes of all uploads in memory.
        deadline_seconds: time from the end of the upload to the response.
        upload_seconds: time for a request body to arrive.
        header_seconds: time for a request head to arrive.
        write_seconds: time for a client to read what the server has sent.
        drain_seconds: time after SIGTERM during which new requests are still accepted.
        reload_seconds: interval between checks for new bundle versions; 0 disables them.
        drift_sample: share of the samples whose drift is measured while the sessions are idle; 0 measures none.
        workers: worker processes; each has its own sessions and limits.
        api_key_file: key file written by `abnn key`; None disables authentication.
        allowed_hosts: names that a request's Host header may have; empty allows any name, but without keys a request to
            a loopback address may only name this machine.
        trusted_proxies: addresses or networks whose X-Forwarded-For is believed.
    """

    max_queue: int = 256
    max_batch: int | None = None
    max_parts: int = 64
    max_connections: int = 1000
    max_connections_per_address: int | None = None
    max_buffered_bytes: int = 128_000_000
    deadline_seconds: int = 10
    upload_seconds: int = 20
    header_seconds: int = 10
    write_seconds: int = 10
    drain_seconds: int = 1
    reload_seconds: int = 5
    drift_sample: float = 0.0
    workers: int = 1
    api_key_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_parts > self.max_queue:
            raise ConfigError(
                f"ABNN_MAX_PARTS is {self.max_parts} but ABNN_MAX_QUEUE is {self.max_queue}, so a full request would "
                "never fit into the queue; raise ABNN_MAX_QUEUE or lower ABNN_MAX_PARTS"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ServiceSettings:
        """Read the variables in docs/configuration.md.

        Raises:
            ConfigError: a variable has an invalid value.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            name = f"ABNN_{field.name.upper()}"
            text = environ.get(name, "").strip()
            if field.name == "api_key_file":
                values[field.name] = _read_key_file(environ)
            elif field.name == "trusted_proxies":
                values[field.name] = tuple(_network(part) for part in _split(text))
            elif field.name == "allowed_hosts":
                values[field.name] = tuple(part.lower() for part in _split(text))
            elif field.name == "drift_sample":
                values[field.name] = _share(name, text) if text else field.default
            elif text:
                minimum = 0 if field.name in {"drain_seconds", "reload_seconds"} else 1
                values[field.name] = read_count(environ, name, minimum)
        return cls(**values)


def _read_key_file(environ: Mapping[str, str]) -> Path | None:
    path = environ.get("ABNN_API_KEY_FILE")
    if path is not None and not path.strip():  # for example a deployment whose own variable is unset
        raise ConfigError(
            "ABNN_API_KEY_FILE is blank, expected the path of a key file; unset the variable to serve without keys"
        )
    return Path(path) if path else None


def _share(name: str, text: str) -> float:
    if not re.fullmatch(r"0(\.\d+)?|1(\.0+)?", text):
        raise ConfigError(f"{name} is {text!r}, expected a number from 0 to 1")
    return float(text)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(
            f"ABNN_TRUSTED_PROXIES has {text!r}, expected addresses or networks such as 10.0.0.0/8 ({error})"
        ) from error
