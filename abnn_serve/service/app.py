"""The HTTP application: POST /classify, POST /classify_video and GET /model."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from abnn_serve.codec import to_json
from abnn_serve.runtime.answer import answer
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.errors import HANDLERS, request_id
from abnn_serve.service.gate import Gate
from abnn_serve.service.parameters import identity, read_top_k
from abnn_serve.service.upload import read_upload
from abnn_serve.service.video import classify_video


def create_app() -> Starlette:
    """The application; `app.state.predictor` must be set before the first request."""
    app = Starlette(
        routes=[
            Route("/classify", classify, methods=["POST"]),
            Route("/classify_video", classify_video, methods=["POST"]),
            Route("/model", model, methods=["GET"]),
        ],
        exception_handlers=HANDLERS,
    )
    app.state.predictor = None
    app.state.video_predictor = None
    app.state.upload_seconds = 20
    app.state.gate = Gate()
    return app


async def classify(request: Request) -> Response:
    """One image, as the multipart file field `image` or as the raw body, to its most probable classes."""
    predictor: Predictor = request.app.state.predictor
    top_k = read_top_k(request)
    gate: Gate = request.app.state.gate
    with gate.admitted():
        data = await read_upload(request, "image", predictor.limits.max_bytes, request.app.state.upload_seconds)
        image = await gate.decode(predictor.decode, data)
        (prediction,) = await gate.infer(lambda: predictor.predict(image[None], top_k=top_k))
    return JSONResponse(
        {**answer(prediction), "model": identity(predictor.bundle), "provider": predictor.session.provider},
        headers={"X-Request-ID": request_id(request)},
    )


async def model(request: Request) -> Response:
    """Which bundle answers, where it runs, what it takes, and what was measured on it."""
    predictor: Predictor = request.app.state.predictor
    bundle = predictor.bundle
    return JSONResponse(
        {
            **identity(bundle),
            "provider": predictor.session.provider,
            "precision": predictor.session.precision,
            "threads": predictor.session.threads,
            "input": to_json(bundle.manifest.input),
            "labels": list(bundle.labels.names),
            "stats_scope": bundle.manifest.stats_scope,
            "card": to_json(bundle.card),
        },
        headers={"X-Request-ID": request_id(request)},
    )
