"""Work for several requests at once."""

from __future__ import annotations

import asyncio

from abnn_serve.service.gathered import MOST, SECONDS, Gathered


def test_items_are_handed_over_together_when_there_are_many():
    async def put() -> list[list[int]]:
        done: list[list[int]] = []
        gathered = Gathered(done.append)
        for item in range(2 * MOST):
            gathered.put(item)
        return done

    assert asyncio.run(put()) == [list(range(MOST)), list(range(MOST, 2 * MOST))]


def test_a_few_items_wait_no_longer_than_a_moment_each_time():
    async def put() -> list[list[str]]:
        done: list[list[str]] = []
        gathered = Gathered(done.append)
        for item in ("a", "b"):
            gathered.put(item)
            assert item not in str(done)
            await asyncio.sleep(2 * SECONDS)
        return done

    assert asyncio.run(put()) == [["a"], ["b"]]
