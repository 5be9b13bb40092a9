"""What every request passes: an id, the API key, one error schema, a log line and metrics; then the application.

It stands inside BentoML's own application and answers in its place, but for BentoML's schema of the endpoints.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abnn_serve.errors import InputError
from abnn_serve.service import logs
from abnn_serve.service.errors import failure, refusal
from abnn_serve.service.worker import State

log = logging.getLogger("abnn_serve.access")

_BENTOML_PATHS = ("/schema.json",)
_OPEN_PATHS = ("/", "/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready", "/favicon.ico")
_OPEN_PREFIX = "/page/"
_PROBES = ("/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready")


class Edge:
    """ASGI middleware around BentoML's application `app`; `state.app` answers."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._outer = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # the lifespan, once, before the first request: BentoML's own middleware costs five times what ours does
            scope["app"].middleware_stack = self
            await self._outer(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        known = scope.setdefault("state", {})
        if known.pop("entering", False):
            self._state.gate.entering -= 1
        known["request_id"] = logs.request_id_of(headers)
        token = logs.request_id.set(known["request_id"])
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._complete(MutableHeaders(raw=message["headers"]), known)
            await send(message)

        try:
            await self._answer(scope, headers, receive, answer)
        except InputError as error:
            await refusal(error, scope)(scope, receive, answer)
        except Exception as error:
            if status:
                raise  # the answer has begun: nothing can be put in its place
            await failure(error, scope)(scope, receive, answer)
        finally:
            self._record(scope, status, time.perf_counter() - started)
            logs.request_id.reset(token)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if self._state.keys and path not in _OPEN_PATHS and not path.startswith(_OPEN_PREFIX):
            scope["state"]["key"] = self._state.keys.check(headers)
        app = self._outer if path in _BENTOML_PATHS else self._state.app
        await app(scope, receive, send)

    def _complete(self, headers: MutableHeaders, known: dict[str, Any]) -> None:
        headers["X-Request-ID"] = known["request_id"]
        headers["X-Content-Type-Options"] = "nosniff"
        if stages := known.get("stages"):
            headers["Server-Timing"] = ", ".join(f"{name};dur={1000 * spent:.3f}" for name, spent in stages.items())
        if self._state.draining:
            headers["Connection"] = "close"

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        known, metrics = scope["state"], self._state.metrics
        path = getattr(scope.get("route"), "path", "other")
        metrics.requests.labels(path, status).inc()
        metrics.seconds.labels(path).observe(seconds)
        if code := known.get("code"):
            metrics.rejects.labels(code).inc()
        self._state.measure()
        if path in _PROBES:
            return
        client = scope.get("client")
        stages = {f"{name}_ms": round(1000 * spent, 3) for name, spent in known.get("stages", {}).items()}
        facts = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1000 * seconds, 3),
            "client": client[0] if client else None,
            **{name: known[name] for name in ("key", "code", "model", "batch") if name in known},
            **stages,
        }
        log.info("%s %s %d", scope["method"], path, status, extra={"facts": facts})
