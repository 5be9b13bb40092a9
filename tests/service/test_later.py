"""Work that no answer waits for."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from abnn_serve.service.later import MOST, SECONDS, Later


def test_tasks_run_together_when_there_are_many():
    async def put() -> None:
        done: list[int] = []
        later = Later()
        for number in range(MOST):
            assert not done
            later.put(partial(done.append, number))
        await asyncio.sleep(0)
        assert done == list(range(MOST))

    asyncio.run(put())


def test_a_few_tasks_wait_no_longer_than_a_moment_each_time():
    async def put() -> None:
        done: list[str] = []
        later = Later()
        for name in ("a", "b"):
            later.put(partial(done.append, name))
            assert name not in done
            await asyncio.sleep(2 * SECONDS)
            assert name in done

    asyncio.run(put())


def test_long_tasks_leave_turns_to_others_and_finish_waits_for_all():
    async def put() -> None:
        done: list[int] = []
        turns: list[int] = []
        later = Later()

        def work() -> None:
            time.sleep(0.002)
            done.append(len(turns))

        async def watch() -> None:
            while True:
                turns.append(len(done))
                await asyncio.sleep(0)

        for _ in range(5):
            later.put(work)
        watching = asyncio.create_task(watch())
        await later.finish()
        watching.cancel()
        assert done == sorted(set(done))  # another turn for each
        assert len(done) == 5

    asyncio.run(put())


def test_a_task_that_fails_is_logged_and_stops_no_other(caplog):
    async def put() -> None:
        done: list[str] = []
        later = Later()
        later.put(lambda: 1 / 0)
        later.put(partial(done.append, "after"))
        await later.finish()
        assert done == ["after"]

    asyncio.run(put())
    assert "ZeroDivisionError" in caplog.text
