"""A small OTLP receiver: takes spans over HTTP as a collector does, and keeps them."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from benchmarks.common.collector import collecting


@dataclass
class Receiver:
    """Spans that have arrived, as protobuf messages, and the resource of the last ones."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)

    def named(self, name: str, trace_id: str | None = None) -> list[Any]:
        """The spans of this name, of one trace or all."""
        return [span for span in self.spans if span.name == name and trace_id in (None, span.trace_id.hex())]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen on a free port until the block ends."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    receiver = Receiver()

    def receive(headers: Message, body: bytes) -> None:
        message = ExportTraceServiceRequest.FromString(
            gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        )
        for group in message.resource_spans:
            receiver.resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            receiver.spans += [span for scope in group.scope_spans for span in scope.spans]

    with collecting(receive) as receiver.url:
        yield receiver
