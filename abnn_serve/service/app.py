"""The HTTP application: its routes and error handlers."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from abnn_serve.service.endpoints import info, page, v2
from abnn_serve.service.endpoints.classify import classify, classify_batch
from abnn_serve.service.endpoints.classify_video import classify_video
from abnn_serve.service.endpoints.openapi import openapi
from abnn_serve.service.errors import HANDLERS
from abnn_serve.service.worker import WorkerState


def create_app(state: WorkerState) -> Starlette:
    """Create the application; call `state.load` before the first request."""
    routes = [
        Route("/classify", classify, methods=["POST"]),
        Route("/classify_batch", classify_batch, methods=["POST"]),
        Route("/classify_video", classify_video, methods=["POST"]),
        Route("/model", info.model, methods=["GET"]),
        Route("/models", info.models, methods=["GET"]),
        Route("/metrics", info.metrics, methods=["GET"]),
        Route("/livez", info.live, methods=["GET"]),
        Route("/healthz", info.live, methods=["GET"]),
        Route("/readyz", info.ready, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        *v2.routes(),
        *page.routes(),
    ]
    app = Starlette(routes=[_RecordedRoute(route) for route in routes])
    app.router.redirect_slashes = False
    # Starlette's default stack answers exceptions in plain text before RequestMiddleware can format them
    app.middleware_stack = ExceptionMiddleware(app.router, handlers=HANDLERS)
    app.state.service = state
    return app


class _RecordedRoute(BaseRoute):
    """Puts the matched route into the scope for logs and metrics; older Starlette versions do not."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = self._route.matches(scope)
        return match, {**child_scope, "route": self._route}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._route.handle(scope, receive, send)
