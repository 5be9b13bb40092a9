"""The Host header against DNS rebinding: a web page whose name is made to resolve to this machine's address.

A browser sends the page's own name in Host, so a server that requires no key answers on a loopback address only under
names of this machine.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from starlette.datastructures import Headers

from abnn_serve.service.errors import BadRequestError, UnknownHostError
from abnn_serve.service.settings import ServiceSettings


class HostCheck:
    """Which names a request may address the server by. IP addresses and `localhost` are always allowed."""

    def __init__(self, limits: ServiceSettings) -> None:
        self._allowed = frozenset(limits.allowed_hosts)
        self._loopback_only = not limits.api_key_file

    def check(self, headers: Headers, server: tuple[str, int | None] | None) -> None:
        """Check the Host header of a request that arrived at the address `server`.

        Raises:
            BadRequestError: more than one Host header.
            UnknownHostError: the name is not allowed.
        """
        if "*" in self._allowed or not (self._allowed or (self._loopback_only and server and is_local(server[0]))):
            return
        hosts = headers.getlist("host")
        if len(hosts) > 1:
            raise BadRequestError("the request has several Host headers, expected one", field="host")
        name = _name(hosts[0]) if hosts else "localhost"  # every browser sends Host
        if name not in self._allowed and not is_local(name) and not _is_address(name):
            expected = ", ".join(sorted(self._allowed)) or "localhost or an IP address"
            raise UnknownHostError(
                f"Host is {name[:80]!r}, expected {expected}; the operator can allow it in ABNN_ALLOWED_HOSTS",
                field="host",
            )


@lru_cache(maxsize=64)
def is_local(host: str) -> bool:
    """Whether a host name or address names this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """The lower-case name of `name:port` or `[address]:port`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")
