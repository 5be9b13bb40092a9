"""Work that waits for an idle moment: one job at a time, at the lowest priority, never beside a request in flight."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

log = logging.getLogger("abnn_serve")

QUEUE = 16  # jobs that wait; a newer one takes the place of the oldest
_POLL_SECONDS = 0.05
_LOW_PRIORITY = 19

T = TypeVar("T")


class IdleWorker(Generic[T]):
    """Runs `work` on queued items while the worker process is idle.

    Args:
        name: name of the thread, for logs.
        work: called in a thread of its own.
        is_idle: whether no session of this process has work.
    """

    def __init__(self, name: str, work: Callable[[T], Callable[[], None] | None], is_idle: Callable[[], bool]) -> None:
        self._name, self._work, self._is_idle = name, work, is_idle
        self._waiting: deque[T] = deque(maxlen=QUEUE)
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, name, initializer=_lower_priority)

    def put(self, item: T) -> None:
        """Queue an item."""
        self._waiting.append(item)
        self._arrived.set()

    async def run(self) -> None:
        """Work while the process is idle, until cancelled. What `work` returns is then called in the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if not self._is_idle():
                    await asyncio.sleep(_POLL_SECONDS)
                    continue
                item = self._waiting.popleft()
                try:
                    if record := await loop.run_in_executor(self._executor, self._work, item):
                        record()
                except Exception:  # an engine may raise anything; answers do not depend on this
                    log.exception("%s failed", self._name)

    def close(self) -> None:
        """Shut down the thread."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _lower_priority() -> None:
    """Give this thread the lowest priority, so that a request that arrives meanwhile gets the core (Linux only)."""
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
