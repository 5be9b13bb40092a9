"""Settings of the HTTP service from ABNN_* environment variables."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args

from abnn_serve.errors import ConfigError
from abnn_serve.runtime.settings import read_count
from abnn_serve.service.candidates import Candidate, read_canary, read_shadow, read_share
from abnn_serve.service.near_duplicates import ALARM, Mode
from abnn_serve.spec import Precision


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
        shadow: a bundle that answers again behind a served model; None for none.
        shadow_precision: precision of the shadow; None takes that of the served model.
        shadow_sample: share of the samples that the shadow answers.
        canary: a bundle that answers a share of the callers of a served model; None for none.
        near_duplicates: `count` samples that resemble earlier ones of the same caller; `label-only` also answers
            callers with many of them by the label alone; None does neither.
        near_duplicates_alarm: resembling samples of one caller from which on they are suspicious.
        otlp_endpoint: URL of an OpenTelemetry collector that spans are sent to; None sends none.
        trace_sample: of the requests without a caller's trace, the share that is recorded.
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
    shadow: Candidate | None = None
    shadow_precision: Precision | None = None
    shadow_sample: float = 1.0
    canary: Candidate | None = None
    near_duplicates: Mode | None = None
    near_duplicates_alarm: int = ALARM
    otlp_endpoint: str | None = None
    trace_sample: float = 1.0
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

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The shadow and the canary, where they are set."""
        return tuple(candidate for candidate in (self.shadow, self.canary) if candidate)

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
            elif text and field.name in _READERS:
                values[field.name] = _READERS[field.name](text)
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


def _precision(text: str) -> Precision:
    if text not in get_args(Precision):
        raise ConfigError(f"ABNN_SHADOW_PRECISION is {text!r}, expected one of {', '.join(get_args(Precision))}")
    return text  # type: ignore[return-value]


def _near_duplicates(text: str) -> Mode:
    if text not in get_args(Mode):
        raise ConfigError(f"ABNN_NEAR_DUPLICATES is {text!r}, expected one of {', '.join(get_args(Mode))}")
    return text  # type: ignore[return-value]


def _endpoint(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text):
        raise ConfigError(f"ABNN_OTLP_ENDPOINT is {text!r}, expected a URL such as http://localhost:4318/v1/traces")
    return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(
            f"ABNN_TRUSTED_PROXIES has {text!r}, expected addresses or networks such as 10.0.0.0/8 ({error})"
        ) from error


_READERS: Mapping[str, Callable[[str], Any]] = {
    "drift_sample": partial(read_share, "ABNN_DRIFT_SAMPLE"),
    "shadow": read_shadow,
    "shadow_precision": _precision,
    "shadow_sample": partial(read_share, "ABNN_SHADOW_SAMPLE"),
    "canary": read_canary,
    "near_duplicates": _near_duplicates,
    "otlp_endpoint": _endpoint,
    "trace_sample": partial(read_share, "ABNN_TRACE_SAMPLE"),
}
