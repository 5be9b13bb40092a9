"""What a user says about an endpoint, and whether its host is this machine."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from abnn_serve.errors import ConfigError

Adapter = Literal["v2", "classify"]

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """How an endpoint is asked.

    Attributes:
        adapter: `v2`, the Open Inference Protocol, or `classify`, the path of this package's own service.
        key_env: environment variable that holds the API key; None sends none.
        concurrency: requests in flight.
        per_request: images in a request, where the endpoint takes any number.
        timeout: seconds to wait for a response.
        max_queries: images that may be sent in all, those of interrupted calls included; None sets no limit.
        repeats: answers to each image of which the mean is taken, for an endpoint that answers at random.
        labels_only: use the class alone, as an attacker who sees no scores.
        authorized: the owner of a host that is not this machine permits the attack.
    """

    adapter: Adapter = "v2"
    key_env: str | None = None
    concurrency: int = 4
    per_request: int = 8
    timeout: float = 30.0
    max_queries: int | None = None
    repeats: int = 1
    labels_only: bool = False
    authorized: bool = False

    def __post_init__(self) -> None:
        if self.adapter not in ("v2", "classify"):
            raise ConfigError(f"--adapter is {self.adapter!r}, expected v2 or classify")
        for name in ("concurrency", "per_request", "timeout", "max_queries", "repeats"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected more than 0")

    @property
    def key(self) -> str | None:
        """The API key; ConfigError if its variable is unset."""
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ConfigError(f"--key-env names {self.key_env}, which is not set; export {self.key_env}=KEY first")
        return key


def is_address(subject: str) -> bool:
    """Whether a subject is an endpoint's address."""
    return subject.startswith(("http://", "https://"))


def is_callable(subject: str) -> bool:
    """Whether a subject is `module:function`."""
    return _CALLABLE.fullmatch(subject) is not None


def check_authorized(address: str, options: EndpointOptions) -> None:
    """ConfigError if the host is not this machine, unless the user says that the attack is permitted."""
    host = urlsplit(address).hostname or ""
    if not options.authorized and not _is_loopback(host):
        raise ConfigError(
            f"{host} is not this machine: attack only services whose owner permits it, and say so with --authorized"
        )


def _is_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)
