"""The HTTP application: which path is answered by what."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from abnn_serve.service import inference, models, pages
from abnn_serve.service.classify import classify, classify_batch
from abnn_serve.service.errors import HANDLERS
from abnn_serve.service.openapi import openapi
from abnn_serve.service.state import State
from abnn_serve.service.video import classify_video


def create_app(state: State) -> Starlette:
    """The application that answers from `state`, which must be loaded before the first request."""
    routes = [
        Route("/classify", classify, methods=["POST"]),
        Route("/classify_batch", classify_batch, methods=["POST"]),
        Route("/classify_video", classify_video, methods=["POST"]),
        Route("/model", models.model, methods=["GET"]),
        Route("/models", models.models, methods=["GET"]),
        Route("/metrics", models.metrics, methods=["GET"]),
        Route("/livez", models.live, methods=["GET"]),
        Route("/healthz", models.live, methods=["GET"]),
        Route("/readyz", models.ready, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        *inference.routes(),
        *pages.routes(),
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
