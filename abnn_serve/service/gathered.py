"""Work that no answer waits for, done for several requests at once: what is in the caches then costs a third."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

MOST = 32
SECONDS = 0.1

T = TypeVar("T")


class Gathered(Generic[T]):
    """Hands items over together: MOST of them, or those of SECONDS.

    Args:
        work: called in the event loop with one item or more, in their order.
    """

    def __init__(self, work: Callable[[list[T]], None]) -> None:
        self._work = work
        self._items: list[T] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, item: T) -> None:
        """Keep an item until others have come; call in the event loop."""
        self._items.append(item)
        if len(self._items) >= MOST:
            self._hand_over()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SECONDS, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer:
            self._timer.cancel()
        items, self._items, self._timer = self._items, [], None
        self._work(items)
