"""Work that no answer waits for, done for several requests at once: what is in the caches then costs a third."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("abnn_serve")

MOST = 32  # tasks that wait
SECONDS = 0.1  # that a task waits at most while the event loop is free
_TURN_SECONDS = 0.001  # tasks of longer turns let the event loop do other work in between


class Later:
    """Tasks for the event loop, run together in their order: MOST of them, or those of SECONDS."""

    def __init__(self) -> None:
        self._tasks: deque[Callable[[], object]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, task: Callable[[], object]) -> None:
        """Run a task soon. Call in the event loop."""
        self._tasks.append(task)
        loop = asyncio.get_running_loop()
        if len(self._tasks) == MOST:
            loop.call_soon(self._run)
        elif self._timer is None:
            self._timer = loop.call_later(SECONDS, self._run)

    async def finish(self) -> None:
        """Run what waits now."""
        while self._tasks:
            self._turn()
            await asyncio.sleep(0)

    def _run(self) -> None:
        self._turn()
        if self._tasks:
            asyncio.get_running_loop().call_soon(self._run)

    def _turn(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        end = time.perf_counter() + _TURN_SECONDS
        while self._tasks and time.perf_counter() < end:
            try:
                self._tasks.popleft()()
            except Exception:  # one task must not stop the others
                log.exception("work after a response failed")
