"""What a worker says of a finished request to the process that sends its spans; all of it can be pickled."""

from __future__ import annotations

from typing import NamedTuple


class RunRecord(NamedTuple):
    """A session run, which is a trace of its own.

    Attributes:
        trace_id: its trace, 128 bits.
        span_id: its span, 64 bits.
        size: samples in it.
        is_new: whether no earlier record has it.
    """

    trace_id: int
    span_id: int
    size: int
    is_new: bool


class StageRecord(NamedTuple):
    """A stage of a request: its start in ns since 1970, its duration in ns, and of `compute` the session run."""

    name: str
    started: int
    duration: int
    run: RunRecord | None


class RequestRecord(NamedTuple):
    """A request.

    Attributes:
        name: its method and route.
        trace_id: its trace, 128 bits.
        span_id: its span, 64 bits.
        parent_id: the caller's span; None where the trace begins here.
        started: in ns since 1970.
        duration: in ns.
        attributes: by the names of OpenTelemetry's semantic conventions.
        failed: whether it ended in a server error.
        stages: its timeline.
    """

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    started: int
    duration: int
    attributes: dict[str, str | int]
    failed: bool
    stages: list[StageRecord]
