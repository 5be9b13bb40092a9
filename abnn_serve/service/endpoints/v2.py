"""The Open Inference Protocol v2 under /v2: health, metadata and inference on tensors of pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from abnn_serve.runtime.rules.base import RuleAnswer
from abnn_serve.service.endpoints import info
from abnn_serve.service.endpoints.long_json import LongResponse
from abnn_serve.service.endpoints.pipeline import RequestPipeline
from abnn_serve.service.endpoints.v2_tensors import HEADER, OUTPUT, read_infer, write_infer
from abnn_serve.service.errors import UnsupportedMediaTypeError
from abnn_serve.service.served_model import ServedModel
from abnn_serve.service.upload import read_body
from abnn_serve.service.worker import WorkerState
from abnn_serve.version import __version__

_SMALL_BYTES = 2_000_000  # JSON of this size is parsed in about ten milliseconds


async def server(_: Request) -> Response:
    """Server metadata."""
    return JSONResponse({"name": "abnn_serve", "version": __version__, "extensions": ["binary_tensor_data"]})


async def metadata(request: Request) -> Response:
    """Model metadata: inputs and outputs."""
    state: WorkerState = request.app.state.service
    model = _requested_model(request)
    bundle = model.predictor.bundle
    return JSONResponse(
        {
            "name": model.name,
            "versions": state.catalog.versions(model.name),
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": model.modality, "datatype": "UINT8", "shape": [-1, *bundle.manifest.input.shape]}],
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(bundle.labels)]}],
        }
    )


async def model_ready(request: Request) -> Response:
    """Model readiness: 200 for every model in service."""
    return JSONResponse({"name": _requested_model(request).name, "ready": True})


async def infer(request: Request) -> Response:
    """Logits of samples that have the model's input shape, by the model's answer rule; `certify` adds its proofs."""
    _requested_model(request)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaTypeError(
            "compressed requests are not supported; send the body uncompressed", field="content-encoding"
        )
    pipeline = RequestPipeline(request, request.path_params["name"])
    pipeline.read_certify()
    bundle, limits = pipeline.predictor.bundle, pipeline.limits
    read = partial(read_body, request, pipeline.predictor.limits.max_bytes, limits.upload_seconds)
    async with pipeline.upload(read) as body:
        spec = bundle.manifest.input
        parse = partial(read_infer, body, request.headers.get(HEADER), spec.shape, limits.max_parts, name=spec.modality)
        run = pipeline.admission.run_small if len(body) <= _SMALL_BYTES else pipeline.admission.run_large
        infer_request = await pipeline.decode(run(parse))
        answers = await pipeline.answer(list(infer_request.samples))
        logits = np.stack([answer.logits for answer in answers])
        pipeline.record_quality(pipeline.predictor.reader.probabilities(logits), list(infer_request.samples))
        response: dict[str, Any] = {"model_name": bundle.manifest.name, "model_version": bundle.manifest.version}
        if infer_request.id is not None:
            response["id"] = infer_request.id
        outputs = {OUTPUT: logits, **_proofs(answers)}
        if any(pipeline.label_only):
            outputs = _only_labels(outputs, np.array(pipeline.label_only))
        write = partial(write_infer, response, outputs, binary=infer_request.binary)
        content, headers = await pipeline.run_python(logits.size, write)
    return LongResponse(content, headers=headers)


def _proofs(answers: list[RuleAnswer]) -> dict[str, NDArray[Any]]:
    """Tensors of requested certificates: `certified`, bool (n,), and of smoothing `radius`, float32 (n,)."""
    certificates = [answer.certificate for answer in answers if answer.certificate]
    proofs: dict[str, NDArray[Any]] = {}
    if certificates:
        proofs["certified"] = np.array([certificate.certified for certificate in certificates])
    if radii := [certificate.radius for certificate in certificates if certificate.radius is not None]:
        proofs["radius"] = np.array(radii, np.float32)
    return proofs


def _only_labels(outputs: dict[str, NDArray[Any]], flags: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The outputs with nothing but the class of flagged samples: logits 1 and 0, and no proof."""
    classes = outputs[OUTPUT].argmax(axis=1)
    labels = np.eye(outputs[OUTPUT].shape[1], dtype=np.float32)[classes]
    hidden = {name: np.zeros_like(values) for name, values in outputs.items()} | {OUTPUT: labels}
    return {
        name: np.where(flags.reshape(-1, *[1] * (values.ndim - 1)), hidden[name], values)
        for name, values in outputs.items()
    }


def _requested_model(request: Request) -> ServedModel:
    state: WorkerState = request.app.state.service
    return state.catalog.get(request.path_params["name"], version=request.path_params.get("version"))


def routes() -> list[Route]:
    """Routes of the protocol."""
    routes = [
        Route("/v2", server, methods=["GET"]),
        Route("/v2/health/live", info.live, methods=["GET"]),
        Route("/v2/health/ready", info.ready, methods=["GET"]),
    ]
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(path, metadata, methods=["GET"]),
            Route(f"{path}/ready", model_ready, methods=["GET"]),
            Route(f"{path}/infer", infer, methods=["POST"]),
        ]
    return routes
