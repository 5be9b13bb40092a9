from __future__ import annotations

import asyncio

import pytest

from abnn_serve.service.peers import Peers
from abnn_serve.service.settings import ServiceSettings


class FakeConnection:
    stalled_since = None

    def __init__(self, unread: int = 0) -> None:
        self.transport = self
        self.unread = unread
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_connections_are_counted_by_address_and_of_ipv6_by_network(first, second, shared):
    async def count() -> None:
        peers, one, two = Peers(ServiceSettings()), FakeConnection(), FakeConnection()
        assert peers.add(one, (first, 1)) == 1
        assert peers.add(two, (second, 2)) == (2 if shared else 1)
        peers.remove(one)
        peers.remove(one)
        peers.remove(two)
        assert peers.add(one, (first, 1)) == 1

    asyncio.run(count())


def test_a_trusted_proxy_and_a_socket_without_an_address_have_no_limit():
    async def count() -> list[int]:
        peers = Peers(ServiceSettings(trusted_proxies=("10.0.0.0/8",)))
        clients = [("10.1.2.3", 1), None, ("no address", 2), ("11.1.2.3", 1)]
        return [peers.add(FakeConnection(), client) for client in clients for _ in range(2)]

    assert asyncio.run(count()) == [0, 0, 0, 0, 1, 2, 1, 2]


def test_the_limit_of_an_address_is_a_quarter_of_all_connections_if_it_is_unset():
    assert Peers(ServiceSettings(max_connections=1000)).max_per_address == 250
    assert Peers(ServiceSettings(max_connections=2)).max_per_address == 1
    assert Peers(ServiceSettings(max_connections_per_address=7)).max_per_address == 7


def test_only_a_client_that_leaves_bytes_unread_all_the_time_is_dropped():
    async def watch() -> list[bool]:
        peers = Peers(ServiceSettings(write_seconds=1))
        never, reads, late = FakeConnection(9), FakeConnection(9), FakeConnection()
        for connection in (never, reads, late):
            peers.add(connection, ("192.0.2.1", 1))
        await asyncio.sleep(1.2)
        reads.stalled_since, late.unread = None, 9  # as resume_writing() does
        await asyncio.sleep(0.6)
        return [connection.aborted for connection in (never, reads, late)]

    assert asyncio.run(watch()) == [True, False, False]
