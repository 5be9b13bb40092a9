from __future__ import annotations

import contextlib
import threading

import anyio
import pytest

from abnn_serve.service.errors import BusyError
from abnn_serve.service.gate import MAX_DECODES, MAX_REQUESTS, Gate


def test_requests_past_the_limit_are_refused_at_once_and_a_leaver_makes_room():
    gate = Gate()
    with contextlib.ExitStack() as inside:
        for _ in range(MAX_REQUESTS):
            inside.enter_context(gate.admitted())
        with pytest.raises(BusyError, match=f"{MAX_REQUESTS} requests are being answered"), gate.admitted():
            pass
    with gate.admitted():
        pass


def test_a_request_that_fails_makes_room_too():
    gate = Gate()
    for _ in range(MAX_REQUESTS + 1):
        with pytest.raises(ValueError, match="no"), gate.admitted():
            raise ValueError("no")


@pytest.mark.parametrize(("kind", "most"), [("decode", MAX_DECODES), ("infer", 1)])
def test_no_more_than_so_many_run_at_a_time(kind, most):
    gate, lock, running, seen = Gate(), threading.Lock(), [0], []
    hold = threading.Event()

    def work(_: bytes = b"") -> None:
        with lock:
            running[0] += 1
            seen.append(running[0])
        hold.wait(0.01)
        with lock:
            running[0] -= 1

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                arguments = (work, b"") if kind == "decode" else (work,)
                group.start_soon(getattr(gate, kind), *arguments)

    anyio.run(main)
    assert len(seen) == 8
    assert max(seen) == most
