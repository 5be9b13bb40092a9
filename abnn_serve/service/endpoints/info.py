"""GET /model and /models, health and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.codec import to_json
from abnn_serve.runtime.rules.base import Rule
from abnn_serve.service.endpoints.classify import model_identity
from abnn_serve.service.errors import BusyError
from abnn_serve.service.served_model import ServedModel
from abnn_serve.service.worker import WorkerState


async def model(request: Request) -> Response:
    """Describe one model: identity, placement, input, labels and robustness card."""
    state: WorkerState = request.app.state.service
    description = _description(
        state.catalog.get(request.query_params.get("model"), version=request.query_params.get("version"))
    )
    return JSONResponse({**description, "decoder_isolation": list(state.decoders.mechanisms)})


async def models(request: Request) -> Response:
    """List all models and versions, the default first."""
    state: WorkerState = request.app.state.service
    rows = [
        {
            **model_identity(model.predictor),
            "modality": model.modality,
            "certifies": model.predictor.rule.certifies,
        }
        for model in state.catalog.all()
    ]
    return JSONResponse({"models": rows})


async def live(_: Request) -> Response:
    """Liveness: always 200 while the process can answer."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Readiness: 200 once every bundle is verified and warmed up, until SIGTERM, and while images can be decoded."""
    state: WorkerState = request.app.state.service
    if not state.can_answer:
        raise BusyError("the server is starting up, shutting down or cannot decode; retry another instance")
    return JSONResponse({"ready": True})


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    state: WorkerState = request.app.state.service
    await state.later.finish()
    state.update_gauges()
    body, media_type = await asyncio.to_thread(state.metrics.exposition)  # takes 5 ms after some use
    return Response(body, headers={"Content-Type": media_type})


def _kinds(rule: Rule) -> tuple[str, ...]:
    return ("answer", "certificate") if rule.certifies else ("answer",)


def _description(model: ServedModel) -> dict[str, Any]:
    bundle, session, rule = model.predictor.bundle, model.predictor.session, model.predictor.rule
    return {
        **model_identity(model.predictor)["model"],
        "provider": session.provider,
        "placement": session.placement,
        "precision": session.precision,
        "threads": session.threads,
        "max_batch": model.batcher.max_batch,
        "input": to_json(bundle.manifest.input),
        "answer": to_json(bundle.manifest.answer) if bundle.manifest.answer else None,
        "calibration": to_json(bundle.manifest.calibration) if bundle.manifest.calibration else None,
        "passes": {name: rule.max_passes(certify=name == "certificate") for name in _kinds(rule)},
        "labels": list(bundle.labels.names),
        "stats_scope": bundle.manifest.stats_scope,
        "card": to_json(bundle.card),
    }
