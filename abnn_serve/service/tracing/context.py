"""W3C Trace Context: the trace that a request belongs to, from its `traceparent` header."""

from __future__ import annotations

import contextvars
import random
import re
from dataclasses import dataclass

from starlette.datastructures import Headers

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

SAMPLED = 1

current_trace: contextvars.ContextVar[TraceContext | None] = contextvars.ContextVar("trace", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """One request's place in a trace; identifiers in lower-case hexadecimal.

    Attributes:
        trace_id: 32 digits, shared by all services of the trace.
        span_id: 16 digits, this service's part.
        parent_id: 16 digits, the caller's part; None where the trace begins here.
        flags: two digits; the lowest bit says that the caller records the trace.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    flags: str

    @property
    def is_sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(int(self.flags, 16) & SAMPLED)

    @property
    def traceparent(self) -> str:
        """The header with this service's span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def trace_of(headers: Headers) -> TraceContext | None:
    """The trace of a request with a span of its own; None without a valid `traceparent`.

    A version after 00 may have further fields, which are ignored as the standard requires.
    """
    text = headers.get("traceparent")
    if text is None or len(text) > 200 or not (match := _TRACEPARENT.fullmatch(text)):
        return None
    if text.startswith("00") and match[4]:
        return None
    span_id = f"{random.getrandbits(64) or 1:016x}"
    return TraceContext(trace_id=match[1], span_id=span_id, parent_id=match[2], flags=match[3])
