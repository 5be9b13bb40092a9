"""Limits of one API key: requests and bytes a minute, as token buckets, and the headers that report them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.types import Message, Receive

from abnn_serve.service.errors import TooManyRequestsError
from abnn_serve.service.key_file import KeyTerms

_MINUTE = 60
_MEGABYTE = 1_000_000
_DIGITS = 18  # of a Content-Length; int() refuses thousands of them


class Bucket:
    """Holds up to `size` tokens and gains `per_minute` of them each minute; its balance may become negative.

    Args:
        unit: what a token stands for, in the headers.
        now: in seconds of a clock that never goes back, as in all methods.
    """

    def __init__(self, unit: str, per_minute: int, size: int, now: float) -> None:
        self.size = size
        self.policy = f'"{unit}";q={per_minute};w={_MINUTE};qu="{unit}"'
        self._unit = unit
        self._rate = per_minute / _MINUTE
        self._balance, self._updated = float(size), now

    def balance(self, now: float) -> float:
        """Tokens at this time."""
        self._balance = min(self.size, self._balance + (now - self._updated) * self._rate)
        self._updated = now
        return self._balance

    def take(self, tokens: float, now: float) -> None:
        """Take tokens, also those that it does not hold."""
        self._balance = self.balance(now) - tokens

    def seconds_until(self, tokens: float, now: float) -> float:
        """Time until it holds so many tokens, at most its size."""
        return max(0.0, (min(tokens, self.size) - self.balance(now)) / self._rate)

    def state(self, now: float) -> str:
        """What is left, and the seconds until it is full, as an item of the header RateLimit."""
        balance = self.balance(now)
        return f'"{self._unit}";r={max(0, math.floor(balance))};t={math.ceil((self.size - balance) / self._rate)}'


class KeyLimits:
    """What one key may still ask of this worker.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, terms: KeyTerms, clock: Callable[[], float] = time.monotonic) -> None:
        self.terms, self._clock, now = terms, clock, clock()
        requests, size = terms.requests, (terms.megabytes or 0) * _MEGABYTE
        self._requests = Bucket("requests", requests, terms.burst or requests, now) if requests else None
        self._bytes = Bucket("content-bytes", size, size, now) if size else None
        self._buckets = [bucket for bucket in (self._requests, self._bytes) if bucket]
        self._policy = (b"ratelimit-policy", ", ".join(bucket.policy for bucket in self._buckets).encode())

    def admit(self, content_length: str) -> None:
        """Count a request.

        Args:
            content_length: value of its Content-Length header, or an empty string.

        Raises:
            TooManyRequestsError: the key is at one of its limits; the request is not counted.
        """
        now = self._clock()
        is_length = content_length.isdecimal() and len(content_length) <= _DIGITS
        declared = int(content_length) if is_length else 0
        if self._bytes and (seconds := self._bytes.seconds_until(max(1, declared), now)):
            raise TooManyRequestsError(
                f"this key may send {self.terms.megabytes:,} MB a minute; retry after {math.ceil(seconds)} s",
                seconds=seconds,
            )
        if self._requests:
            if seconds := self._requests.seconds_until(1, now):
                raise TooManyRequestsError(
                    f"this key may send {self.terms.requests:,} requests a minute, {self._requests.size:,} at once; "
                    f"retry after {math.ceil(seconds)} s",
                    seconds=seconds,
                )
            self._requests.take(1, now)

    def counting(self, receive: Receive) -> Receive:
        """`receive`, with the bytes of the body counted as they arrive."""
        if (bucket := self._bytes) is None:
            return receive

        async def receive_and_count() -> Message:
            message = await receive()
            if body := message.get("body"):
                bucket.take(len(body), self._clock())
            return message

        return receive_and_count

    def headers(self) -> list[tuple[bytes, bytes]]:
        """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10)."""
        now = self._clock()
        return [self._policy, (b"ratelimit", ", ".join([bucket.state(now) for bucket in self._buckets]).encode())]
