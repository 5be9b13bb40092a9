"""Limits of one API key: requests and bytes a minute, as token buckets, and the headers that report them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

from starlette.types import Message, Receive

from abnn_serve.service.errors import TooManyRequestsError
from abnn_serve.service.key_file import KeyTerms

_MINUTE = 60
_MEGABYTE = 1_000_000


class Bucket:
    """Holds up to `size` tokens and gains `per_minute` of them each minute; its balance may become negative.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, per_minute: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self._rate, self._clock = per_minute / _MINUTE, clock
        self._balance, self._updated = float(size), clock()

    @property
    def balance(self) -> float:
        """Tokens at this time."""
        now = self._clock()
        self._balance = min(self.size, self._balance + (now - self._updated) * self._rate)
        self._updated = now
        return self._balance

    def take(self, tokens: float) -> None:
        """Take tokens, also those that it does not hold."""
        self._balance = self.balance - tokens

    def seconds_until(self, tokens: float) -> float:
        """Time until it holds so many tokens, at most its size."""
        return max(0.0, (min(tokens, self.size) - self.balance) / self._rate)


class KeyLimits:
    """What one key may still ask of this worker."""

    def __init__(self, terms: KeyTerms, clock: Callable[[], float] = time.monotonic) -> None:
        self.terms = terms
        megabytes = (terms.megabytes or 0) * _MEGABYTE
        self._requests = Bucket(terms.requests, terms.burst or terms.requests, clock) if terms.requests else None
        self._bytes = Bucket(megabytes, megabytes, clock) if megabytes else None

    def admit(self, content_length: str) -> None:
        """Count a request.

        Args:
            content_length: value of its Content-Length header, or an empty string.

        Raises:
            TooManyRequestsError: the key is at one of its limits; the request is not counted.
        """
        declared = int(content_length) if re.fullmatch(r"[0-9]{1,18}", content_length) else 0
        if self._bytes and (seconds := self._bytes.seconds_until(max(1, declared))):
            raise TooManyRequestsError(
                f"this key may send {self.terms.megabytes:,} MB a minute; retry after {math.ceil(seconds)} s",
                seconds=seconds,
            )
        if self._requests:
            if seconds := self._requests.seconds_until(1):
                raise TooManyRequestsError(
                    f"this key may send {self.terms.requests:,} requests a minute, {self._requests.size:,} at once; "
                    f"retry after {math.ceil(seconds)} s",
                    seconds=seconds,
                )
            self._requests.take(1)

    def counting(self, receive: Receive) -> Receive:
        """`receive`, with the bytes of the body counted as they arrive."""
        if (bucket := self._bytes) is None:
            return receive

        async def receive_and_count() -> Message:
            message = await receive()
            if body := message.get("body"):
                bucket.take(len(body))
            return message

        return receive_and_count

    def headers(self) -> dict[str, str]:
        """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10)."""
        policies, states = [], []
        buckets = (("requests", self._requests, self.terms.requests), ("content-bytes", self._bytes, None))
        for unit, bucket, quota in buckets:
            if bucket is None:
                continue
            policies.append(f'"{unit}";q={quota or int(bucket.size)};w={_MINUTE};qu="{unit}"')
            remaining = max(0, math.floor(bucket.balance))
            states.append(f'"{unit}";r={remaining};t={math.ceil(bucket.seconds_until(bucket.size))}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
