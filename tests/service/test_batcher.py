from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from abnn_serve.service.batcher import Batcher
from abnn_serve.service.errors import BusyError, DeadlineError

POISON = 255


class Session:
    """Logits are a sample's first two pixels; sizes of runs are kept; a poisoned sample fails the whole run."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.started = threading.Event()

    def run(self, batch):
        self.started.set()
        assert self.free.wait(10)
        self.sizes.append(len(batch))
        if (batch == POISON).any():
            raise RuntimeError("poison")
        return batch[:, :2].astype(np.float32)


def sample(value: int) -> np.ndarray:
    return np.full(4, value, np.uint8)


def play(story, session: Session, **options):
    """Run a coroutine function with a batcher around the session."""

    async def main():
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(session.run, executor, **{"max_batch": 4, "max_queue": 16, **options})
            try:
                return await story(batcher)
            finally:
                session.free.set()

    return asyncio.run(main())


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def held(batcher, session) -> asyncio.Task:
    """A request whose run is in progress and stays so until the session is freed."""
    session.free.clear()
    task = asyncio.create_task(batcher.submit([sample(99)], soon()))
    await asyncio.to_thread(session.started.wait, 10)
    return task


def test_requests_that_wait_together_run_together_and_each_gets_its_own_rows():
    session = Session()

    async def story(batcher):
        first = await held(batcher, session)
        others = [asyncio.create_task(batcher.submit([sample(i), sample(i + 50)], soon())) for i in range(3)]
        await asyncio.sleep(0)
        session.free.set()
        return [await task for task in (first, *others)]

    first, *others = play(story, session)
    assert first.logits.tolist() == [[99, 99]]
    assert [answer.logits[:, 0].tolist() for answer in others] == [[0, 50], [1, 51], [2, 52]]
    assert session.sizes == [1, 4, 2]
    assert {answer.batch for answer in others} == {4}


def test_a_run_is_kept_short_where_samples_take_long():
    session = Session()

    async def story(batcher):
        first = await held(batcher, session)
        others = [asyncio.create_task(batcher.submit([sample(i)], soon(60))) for i in range(4)]
        await asyncio.sleep(0)
        session.free.set()
        await asyncio.gather(first, *others)

    play(story, session, seconds=0.5)
    assert session.sizes[:2] == [1, 2]


def test_one_request_with_many_samples_does_not_hold_up_another():
    session, order = Session(), []

    async def story(batcher):
        first = await held(batcher, session)

        async def ask(name, samples):
            await batcher.submit(samples, soon())
            order.append(name)

        tasks = [asyncio.create_task(ask("bulk", [sample(1)] * 12)), asyncio.create_task(ask("single", [sample(2)]))]
        await asyncio.sleep(0)
        session.free.set()
        await asyncio.gather(first, *tasks)

    play(story, session)
    assert order == ["single", "bulk"]


def test_a_sample_that_the_session_cannot_run_fails_its_own_request_only():
    session = Session()

    async def story(batcher):
        first = await held(batcher, session)
        tasks = [asyncio.create_task(batcher.submit([sample(v)], soon())) for v in (1, POISON, 3)]
        await asyncio.sleep(0)
        session.free.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, poisoned, three = play(story, session)
    assert (one.logits[0, 0], three.logits[0, 0]) == (1, 3)
    assert isinstance(poisoned, RuntimeError)


def test_past_the_limit_requests_are_refused_at_once_with_a_time_to_come_again():
    session = Session()

    async def story(batcher):
        first = await held(batcher, session)
        waiting = asyncio.create_task(batcher.submit([sample(1)] * 15, soon()))
        await asyncio.sleep(0)
        assert batcher.queued == 15
        with pytest.raises(BusyError, match="15 samples are queued, and 2 more exceed the limit of 16") as refused:
            await batcher.submit([sample(2)] * 2, soon())
        session.free.set()
        await asyncio.gather(first, waiting)
        return refused.value, batcher.queued

    refused, left = play(story, session)
    assert int(refused.headers["Retry-After"]) >= 1
    assert left == 0


def test_what_could_not_be_done_before_its_deadline_is_not_begun():
    session = Session()

    async def story(batcher):
        first = await held(batcher, session)
        waiting = asyncio.create_task(batcher.submit([sample(1)], soon(60)))
        await asyncio.sleep(0)
        with pytest.raises(
            BusyError, match=r"estimated queue time is 8\.0 s, but only 7\.0 s remain before the deadline"
        ) as refused:
            batcher.check(2, 7.0)
        assert refused.value.headers["Retry-After"] == "1"
        batcher.check(2, 9.0)
        session.free.set()
        await asyncio.gather(first, waiting)

    play(story, session, seconds=2.0)


def test_an_idle_session_takes_what_may_last_longer_than_is_left():
    async def story(batcher):
        return await batcher.submit([sample(i) for i in range(8)], soon())

    assert len(play(story, Session(), seconds=2.0).logits) == 8


def test_one_slow_run_does_not_refuse_those_who_come_after_it():
    session = Session()

    async def story(batcher):
        slow = await held(batcher, session)
        await asyncio.sleep(3)
        session.free.set()
        await slow
        for value in range(20):
            await batcher.submit([sample(value)], soon(1))
        together = [batcher.submit([sample(value)], soon(1)) for value in range(4)]
        return [answer.logits[0, 0] for answer in await asyncio.gather(*together)]

    assert play(story, session) == [0, 1, 2, 3]


def test_a_request_past_its_deadline_is_refused_and_leaves_the_line():
    session = Session()

    async def story(batcher):
        first = await held(batcher, session)
        with pytest.raises(DeadlineError):
            await batcher.submit([sample(1)] * 3, soon(0.02))
        assert batcher.queued == 0
        session.free.set()
        await first
        answer = await batcher.submit([sample(7)], soon())
        return answer.logits[0, 0]

    assert play(story, session) == 7
    assert session.sizes == [1, 1]
