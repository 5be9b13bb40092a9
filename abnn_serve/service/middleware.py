"""Middleware for every request: request id, API key, error schema, log line and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abnn_serve.errors import InputError
from abnn_serve.service import logs
from abnn_serve.service.compatibility import incompatible
from abnn_serve.service.errors import BusyError, error_response, internal_error_response
from abnn_serve.service.tracing.context import current_trace, trace_of
from abnn_serve.service.worker import WorkerState

log = logging.getLogger("abnn_serve.access")

_BENTOML_PATHS = ("/schema.json",)
_PUBLIC_PATHS = ("/", "/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready", "/favicon.ico")
_PUBLIC_PREFIX = "/page/"
_UNLOGGED_PATHS = ("/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready")


class RequestMiddleware:
    """ASGI middleware that passes requests to `state.app`; BentoML's own application answers only its schema."""

    def __init__(self, app: ASGIApp, state: WorkerState) -> None:
        self._bentoml_app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # lifespan
            skip_outer_middleware(scope["app"], self)
            await self._bentoml_app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        if state.pop("pending", False):
            self._state.admission.pending -= 1
        state["request_id"] = logs.request_id_of(headers)
        token = logs.request_id.set(state["request_id"])
        state["trace"] = trace_of(headers)
        if self._state.spans and not state["trace"] and scope["path"] not in _UNLOGGED_PATHS:
            state["trace"] = self._state.spans.new_trace()
        trace_token = current_trace.set(state["trace"])
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = headers_of_response = list(message["headers"])
                self._add_headers(headers_of_response, state)
            await send(message)

        try:
            await self._route(scope, headers, receive, send_with_headers)
        except InputError as error:
            await error_response(error, scope)(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if status or not self._state.draining:
                raise
            leaving = BusyError("the server is shutting down; retry another instance")
            await error_response(leaving, scope)(scope, receive, send_with_headers)
        except Exception as error:
            if status:
                raise  # the response has started and cannot be replaced
            await internal_error_response(error, scope)(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, started)
            logs.request_id.reset(token)
            current_trace.reset(trace_token)

    async def _route(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in _PUBLIC_PATHS and not path.startswith(_PUBLIC_PREFIX):
            self._state.hosts.check(headers, scope["server"])
            if keys := self._state.keys:
                scope["state"]["key"] = name = keys.check(headers)
                if limits := keys.limits(name):
                    scope["state"]["key_limits"] = limits
                    limits.admit(headers.get("content-length", ""))
                    receive = limits.counting(receive)
        app = self._bentoml_app if path in _BENTOML_PATHS else self._state.app
        await app(scope, receive, send)

    def _add_headers(self, headers: list[tuple[bytes, bytes]], state: dict[str, Any]) -> None:
        headers += [(b"x-request-id", state["request_id"].encode()), (b"x-content-type-options", b"nosniff")]
        if trace := state.get("trace"):
            headers.append((b"traceparent", trace.traceparent.encode()))
        if stages := state.get("stages"):
            timing = ", ".join([f"{name};dur={1000 * seconds:.3f}" for name, seconds in stages.items()])
            headers.append((b"server-timing", timing.encode()))
        if limits := state.get("key_limits"):
            headers += limits.headers()
        if self._state.draining:
            headers.append((b"connection", b"close"))

    def _record(self, scope: Scope, status: int, started: float) -> None:
        state, metrics, seconds = scope["state"], self._state.metrics, time.perf_counter() - started
        path = getattr(scope.get("route"), "path", "other")
        metrics.requests.labels(path, status).inc()
        metrics.seconds.labels(path).observe(seconds)
        if arm := state.get("arm"):
            metrics.canary_requests.labels(*arm, status).inc()
        if code := state.get("code"):
            metrics.rejects.labels(code).inc()
        self._state.update_gauges()
        if path in _UNLOGGED_PATHS:
            return
        client = scope.get("client")
        stages = {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in state.get("stages", {}).items()}
        fields = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1000 * seconds, 3),
            "client": client[0] if client else None,
            **{name: state[name] for name in ("key", "code", "model", "version", "batch") if name in state},
            **stages,
        }
        log.info("%s %s %d", scope["method"], path, status, extra={"fields": fields})
        if (spans := self._state.spans) and (trace := state["trace"]) and trace.is_sampled:
            timeline = state.get("timeline", ())
            self._state.later.put(partial(spans.record, trace, path, fields, started, seconds, timeline))


def skip_outer_middleware(app: Any, middleware: ASGIApp) -> None:
    """Let `middleware` answer in place of the whole stack of BentoML's application, which costs five times as much.

    Raises:
        ConfigError: BentoML's application is not a Starlette application with a middleware stack.
    """
    if not isinstance(app, Starlette) or not callable(app.middleware_stack):
        raise incompatible("bentoml", "its application has no Starlette middleware stack")
    app.middleware_stack = middleware
