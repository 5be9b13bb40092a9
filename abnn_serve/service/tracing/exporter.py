"""The process that sends spans: `python -m abnn_serve.service.tracing.exporter ENDPOINT`.

It reads lists of `RequestRecord` from its standard input, a `multiprocessing.Pipe`, and sends their spans by OTLP over
HTTP, one list at a time: while a collector does not answer, the pipe fills and the worker drops further spans.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from opentelemetry.exporter.otlp.proto.http import trace_exporter

from abnn_serve.service.logs import log_as_json
from abnn_serve.service.tracing.encoding import encode

_EXPORT_SECONDS = 5.0
_NICE = 10  # the processes that answer requests come first


def main() -> None:
    """Send the spans of every list that arrives, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; this one ends after the worker
    os.nice(_NICE)
    log_as_json()
    trace_exporter.encode_spans = encode  # the exporter keeps the rest: environment, TLS, compression, retries
    exporter = trace_exporter.OTLPSpanExporter(endpoint=sys.argv[1], timeout=_EXPORT_SECONDS)
    pipe = Connection(sys.stdin.fileno(), writable=False)
    with suppress(EOFError):
        while True:
            exporter.export(pipe.recv())


if __name__ == "__main__":
    main()
