"""JSON logs: one object per line, with the request id and trace that it belongs to."""

from __future__ import annotations

import contextvars
import datetime as dt
import json
import logging
import random
import re
import sys

from starlette.datastructures import Headers

from abnn_serve.service.tracing.context import current_trace

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


def request_id_of(headers: Headers) -> str:
    """The client's X-Request-ID if it is well formed, else 32 random hexadecimal digits (not a secret)."""
    client_id = headers.get("x-request-id", "")
    return client_id if _REQUEST_ID.fullmatch(client_id) else f"{random.getrandbits(128):032x}"


class JsonFormatter(logging.Formatter):
    """Writes time, level, logger, message, request_id, the trace and traceback; `extra={"fields": {...}}` adds keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current_id := request_id.get()) is not None:
            line["request_id"] = current_id
        if (trace := current_trace.get()) is not None:
            line |= {"trace_id": trace.trace_id, "span_id": trace.span_id, "parent_id": trace.parent_id}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json() -> None:
    """Send all logs of this process, including BentoML's and uvicorn's, to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            logger.handlers, logger.propagate = [], True
            if name.split(".")[0] == "abnn_serve":
                logger.setLevel(logging.NOTSET)
    logging.getLogger("abnn_serve").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
