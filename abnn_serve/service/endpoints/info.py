"""GET /model and /models, health and metrics."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.codec import to_json
from abnn_serve.service.catalog import Served
from abnn_serve.service.endpoints.classify import answerer
from abnn_serve.service.errors import BusyError
from abnn_serve.service.worker import State


async def model(request: Request) -> Response:
    """Which bundle answers, where it runs, what it takes, and what was measured on it; `?model=` names another."""
    state: State = request.app.state.service
    return JSONResponse(_described(state.catalog.get(request.query_params.get("model"))))


async def models(request: Request) -> Response:
    """Every bundle by name, the default first."""
    state: State = request.app.state.service
    return JSONResponse({"models": [{**answerer(s.predictor), "modality": s.modality} for s in state.catalog.all()]})


async def live(_: Request) -> Response:
    """The process answers."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Every bundle is verified and warmed up, and the process is not leaving."""
    state: State = request.app.state.service
    if not state.ready or state.draining:
        raise BusyError("this server is starting or leaving; send requests elsewhere")
    return JSONResponse({"ready": True})


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    state: State = request.app.state.service
    state.measure()
    body, kind = state.metrics.exposition()
    return Response(body, headers={"Content-Type": kind})


def _described(served: Served) -> dict[str, Any]:
    predictor = served.predictor
    bundle, session = predictor.bundle, predictor.session
    flat = answerer(predictor)
    return {
        **flat["model"],
        "provider": session.provider,
        "placement": session.placement,
        "precision": session.precision,
        "threads": session.threads,
        "max_batch": served.batcher.max_batch,
        "input": to_json(bundle.manifest.input),
        "labels": list(bundle.labels.names),
        "stats_scope": bundle.manifest.stats_scope,
        "card": to_json(bundle.card),
    }
