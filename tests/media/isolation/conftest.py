"""One pool of decoding processes for the tests of this folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from abnn_serve.media.isolation.pool import DecoderPool
from tests.service.server import wait_until


class Deaths(Counter[str]):
    """Counts deaths by cause."""

    def record(self, cause: str) -> None:
        self[cause] += 1


@pytest.fixture(scope="module")
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture(scope="module")
def shared_pool(deaths: Deaths) -> Iterator[DecoderPool]:
    with DecoderPool(2, on_death=deaths.record) as pool:
        pool.start()
        yield pool


@pytest.fixture
def pool(shared_pool: DecoderPool, deaths: Deaths) -> DecoderPool:
    """The pool with all its processes idle, and no deaths counted."""
    wait_until(lambda: len(shared_pool.pids) == 2)
    deaths.clear()
    return shared_pool
