"""The service with a watch on its event loop, for `bentoml serve tests.service.watched:AbnnService`.

Each time the loop comes round, the CPU time that its thread has used since the last time is noted: what others on the
machine do, and threads that hold the GIL, do not count. Periods over a millisecond are written to the file LOOP_WATCH,
as lines of the time of day and the milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import time

from abnn_serve.service.bento import AbnnService, state

__all__ = ["AbnnService"]


async def _watch() -> None:
    with open(os.environ["LOOP_WATCH"], "a", buffering=1) as file:  # noqa: ASYNC230, PTH123
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.0005)
            now = time.thread_time()
            if now - before > 0.001:
                file.write(f"{time.time():.6f} {1000 * (now - before):.3f}\n")
            before = time.thread_time()


def _start_with_watch() -> None:
    start()
    state._tasks.append(asyncio.get_running_loop().create_task(_watch()))


start, state.start = state.start, _start_with_watch
