"""The Open Inference Protocol v2 under /v2: health, metadata, and logits for tensors of pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from abnn_serve.service.catalog import Served
from abnn_serve.service.endpoints import info
from abnn_serve.service.endpoints.pipeline import Work
from abnn_serve.service.endpoints.v2_tensors import HEADER, OUTPUT, read_infer, write_infer
from abnn_serve.service.errors import UnknownModelError, UnsupportedMediaTypeError
from abnn_serve.service.upload import read_body
from abnn_serve.service.worker import State
from abnn_serve.version import __version__

_QUICK_BYTES = 2_000_000  # of JSON, parsed in some ten milliseconds


async def server(_: Request) -> Response:
    """Who serves, and which extensions of the protocol."""
    return JSONResponse({"name": "abnn_serve", "version": __version__, "extensions": ["binary_tensor_data"]})


async def metadata(request: Request) -> Response:
    """A model's inputs and outputs."""
    served = _named(request)
    bundle = served.predictor.bundle
    return JSONResponse(
        {
            "name": served.name,
            "versions": [served.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": served.modality, "datatype": "UINT8", "shape": [-1, *bundle.manifest.input.shape]}],
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(bundle.labels)]}],
        }
    )


async def model_ready(request: Request) -> Response:
    """A model answers."""
    return JSONResponse({"name": _named(request).name, "ready": True})


async def infer(request: Request) -> Response:
    """Logits for samples that are already of the model's size."""
    _named(request)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaTypeError("compressed requests are not taken", field="content-encoding")
    work = Work(request, request.path_params["name"])
    bundle, limits = work.predictor.bundle, work.limits
    read = partial(read_body, request, work.predictor.limits.max_bytes, limits.upload_seconds)
    async with work.received(read) as body:
        spec = bundle.manifest.input
        parse = partial(read_infer, body, request.headers.get(HEADER), spec.shape, limits.max_parts, name=spec.modality)
        lane = work.gate.quick if len(body) <= _QUICK_BYTES else work.gate.large
        asked = await work.decode(lane(parse))
        answered = await work.infer(list(asked.samples))
    facts: dict[str, Any] = {"model_name": bundle.manifest.name, "model_version": bundle.manifest.version}
    if asked.id is not None:
        facts["id"] = asked.id
    body, headers = write_infer(facts, answered.logits, binary=asked.binary)
    return Response(body, headers=headers)


def _named(request: Request) -> Served:
    state: State = request.app.state.service
    served = state.catalog.get(request.path_params["name"])
    version = request.path_params.get("version", served.version)
    if version != served.version:
        raise UnknownModelError(
            f"{served.name} has no version {version[:64]!r}, expected {served.version!r}", field="version"
        )
    return served


def routes() -> list[Route]:
    """All of the protocol's paths."""
    found = [
        Route("/v2", server, methods=["GET"]),
        Route("/v2/health/live", info.live, methods=["GET"]),
        Route("/v2/health/ready", info.ready, methods=["GET"]),
    ]
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route(path, metadata, methods=["GET"]),
            Route(f"{path}/ready", model_ready, methods=["GET"]),
            Route(f"{path}/infer", infer, methods=["POST"]),
        ]
    return found
