"""The HTTP application: which path is answered by what."""

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
from abnn_serve.service.worker import State


def create_app(state: State) -> Starlette:
    """The application that answers from `state`, which must be loaded before the first request."""
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
    app = Starlette(routes=[_Named(route) for route in routes])
    app.router.redirect_slashes = False
    # Starlette's own stack would answer a failure in plain text before `Edge` sees it
    app.middleware_stack = ExceptionMiddleware(app.router, handlers=HANDLERS)
    app.state.service = state
    return app


class _Named(BaseRoute):
    """A route that the scope names once it is chosen, for the log and the metrics; older Starlettes do not name it."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = self._route.matches(scope)
        return match, {**found, "route": self._route}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._route.handle(scope, receive, send)
