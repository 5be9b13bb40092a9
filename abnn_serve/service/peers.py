"""The open connections of a worker: how many each client address has, and which clients do not read their responses."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from functools import lru_cache
from typing import Protocol

from abnn_serve.service.settings import ServiceSettings

_SWEEP_SECONDS = 0.5


class Connection(Protocol):
    """What `Peers` needs of a connection.

    Attributes:
        transport: the connection's socket.
        stalled_since: loop time since when the client has left bytes unread, None if it has read all.
    """

    transport: asyncio.Transport
    stalled_since: float | None


class Peers:
    """Open connections by client address. A connection whose client does not read for `write_seconds` is aborted.

    Clients behind a trusted proxy share its address, so proxies may have any number of connections.
    """

    def __init__(self, limits: ServiceSettings) -> None:
        self.max_per_address = limits.max_connections_per_address or max(1, limits.max_connections // 4)
        self._write_seconds = limits.write_seconds
        self._proxies = [ipaddress.ip_network(network) for network in limits.trusted_proxies]
        self._connections: dict[Connection, str | None] = {}
        self._counts: Counter[str] = Counter()
        self._is_proxy = lru_cache(maxsize=64)(self._is_in_a_trusted_network)

    def add(self, connection: Connection, client: tuple[str, int] | None) -> int:
        """Add a connection; returns how many its address has with it, 0 if that is not limited."""
        if not self._connections:
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        name = _address_name(client[0]) if client and not self._is_proxy(client[0]) else None
        self._connections[connection] = name
        if name is None:
            return 0
        self._counts[name] += 1
        return self._counts[name]

    def remove(self, connection: Connection) -> None:
        """Remove a connection that was added."""
        name = self._connections.pop(connection, None)
        if name is not None:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]

    def _is_in_a_trusted_network(self, host: str) -> bool:
        try:
            return any(ipaddress.ip_address(host) in network for network in self._proxies)
        except ValueError:
            return False

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            if connection.transport.get_write_buffer_size() == 0:
                connection.stalled_since = None
            elif connection.stalled_since is None:
                connection.stalled_since = loop.time()
            elif loop.time() - connection.stalled_since >= self._write_seconds:
                connection.transport.abort()
        if self._connections:
            loop.call_later(_SWEEP_SECONDS, self._sweep)


@lru_cache(maxsize=1024)
def _address_name(host: str) -> str:
    """The address; of an IPv6 address its /64 network, because one client can use all of it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
