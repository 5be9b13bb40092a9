from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial

import numpy as np
import pytest

from abnn_serve.errors import UnsupportedFormatError
from abnn_serve.service.admission import MAX_LARGE_QUEUE, SMALL_THREADS, Admission
from abnn_serve.service.errors import BusyError
from tests.drawing import draw_shape, png


def test_requests_past_the_limit_are_refused_at_once_and_a_leaver_makes_room():
    admission = Admission(3, 100)
    with contextlib.ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(admission.admit())
        with pytest.raises(BusyError, match="3 requests are in flight, which is the limit"), admission.admit():
            pass
    with admission.admit():
        pass


def test_a_request_that_fails_makes_room_too():
    admission = Admission(1, 100)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), admission.admit():
            raise ValueError("no")


def test_uploads_past_the_limit_of_all_together_are_refused_and_the_end_of_one_makes_room():
    admission = Admission(9, 100)
    with admission.upload_bytes() as first, admission.upload_bytes() as second:
        first.add(60)
        second.add(40)
        with pytest.raises(BusyError, match="uploads in memory take 100 bytes, the limit is 100; retry later"):
            second.add(1)
    assert admission.buffered_bytes == 0
    with admission.upload_bytes() as third:
        third.add(100)


@pytest.mark.parametrize(("lane", "most"), [("run_small", SMALL_THREADS), ("run_large", 1)])
def test_no_more_than_so_many_run_at_a_time(lane, most):
    admission, lock, running, seen = Admission(9, 9), threading.Lock(), [0], []
    hold = threading.Event()

    def work() -> None:
        with lock:
            running[0] += 1
            seen.append(running[0])
        hold.wait(0.01)
        with lock:
            running[0] -= 1

    async def main() -> None:
        await asyncio.gather(*(getattr(admission, lane)(work) for _ in range(8)))

    asyncio.run(main())
    assert len(seen) == 8
    assert max(seen) == most


def test_quick_work_does_not_wait_for_large_work_whose_line_is_bounded():
    admission, hold = Admission(9, 9), threading.Event()

    async def main() -> None:
        large = [asyncio.create_task(admission.run_large(partial(hold.wait, 10))) for _ in range(MAX_LARGE_QUEUE)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(admission.run_small(lambda: "done"), 5) == "done"
        with pytest.raises(BusyError, match="large inputs are queued for decoding"):
            await admission.run_large(lambda: None)
        hold.set()
        await asyncio.gather(*large)

    asyncio.run(main())


def test_pictures_of_either_lane_become_what_the_predictor_makes_of_them_and_a_bad_one_stays_alone(predictor):
    small, large = (png(draw_shape(1, np.random.default_rng(1), size)) for size in (40, 1500))
    admission = Admission(9, 9)
    first, bad, second = asyncio.run(admission.decode_all(predictor, [large, b"no picture", small]))
    np.testing.assert_array_equal(first, predictor.decode(large))
    np.testing.assert_array_equal(second, predictor.decode(small))
    assert isinstance(bad, UnsupportedFormatError)
