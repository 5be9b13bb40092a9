"""A small OTLP receiver: takes spans over HTTP as a collector does, and keeps them."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """Spans that have arrived, as protobuf messages, and the resource of the last ones."""

    url: str
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)

    def named(self, name: str, trace_id: str | None = None) -> list[Any]:
        """The spans of this name, of one trace or all."""
        return [span for span in self.spans if span.name == name and trace_id in (None, span.trace_id.hex())]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen on a free port until the block ends."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            message = ExportTraceServiceRequest.FromString(
                gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            )
            for group in message.resource_spans:
                receiver.resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
                receiver.spans += [span for scope in group.scope_spans for span in scope.spans]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
