"""The service with a watch on its event loop, for `bentoml serve tests.service.watched:AbnnService`.

Each time the loop comes round, two figures are noted. "busy" is the CPU time that its thread has used since the last
time; what others on the machine do, and threads that hold the GIL, do not count. "late" is how much later than asked it
came round, threads that hold the GIL included: without the time in which the kernel let its thread wait for a core, and
at most the CPU time of the process. Periods over a millisecond are written to the file LOOP_WATCH, as lines of the
time of day, milliseconds busy and milliseconds late.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from abnn_serve.service.bento import AbnnService, state

__all__ = ["AbnnService"]

_EVERY_SECONDS = 0.0005


async def _watch() -> None:
    scheduling = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    def clocks() -> tuple[float, float, float]:
        """CPU time of this thread and of the process, and how long this thread has waited for a core, in seconds."""
        return time.thread_time(), time.process_time(), int(os.pread(scheduling, 100, 0).split()[1]) / 1e9

    with Path(os.environ["LOOP_WATCH"]).open("a", buffering=1) as file:  # noqa: ASYNC230
        while True:
            before, asked = clocks(), time.perf_counter() + _EVERY_SECONDS
            await asyncio.sleep(_EVERY_SECONDS)
            late = time.perf_counter() - asked
            thread, process, waited = (now - then for now, then in zip(clocks(), before, strict=True))
            late = min(late - waited, process)
            if max(thread, late) > 0.001:
                file.write(f"{time.time():.6f} {1000 * thread:.3f} {1000 * late:.3f}\n")


def _start_with_watch() -> None:
    start()
    state._tasks.append(asyncio.get_running_loop().create_task(_watch()))


start, state.start = state.start, _start_with_watch
