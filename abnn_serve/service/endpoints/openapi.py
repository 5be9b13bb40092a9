"""GET /openapi.json: the HTTP interface of the models in service, with working examples."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.media import container, image
from abnn_serve.service.endpoints.openapi_schema import (
    Json,
    array,
    form,
    operation,
    path_parameter,
    query_parameter,
    record,
)
from abnn_serve.service.endpoints.v2_tensors import HEADER
from abnn_serve.service.worker import WorkerState
from abnn_serve.spec import InputSpec
from abnn_serve.version import __version__

_MAX_EXAMPLE_VALUES = 20_000  # models with larger inputs get no example tensor
_GREY = 128
_ERRORS = (400, 404, 408, 413, 415, 422, 503)
_DESCRIPTION = (
    "Classifies images and videos. URLs are never fetched. All errors share one schema; a 503 response says in its "
    "Retry-After header how many seconds to wait."
)

_STRING, _NUMBER, _INTEGER, _BOOLEAN = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_SCORE = record(label=_STRING, index=_INTEGER, probability=_PROBABILITY)
_PREDICTION = {**_SCORE["properties"], "top": array(_SCORE)}
_ABSTAIN_BELOW = {"type": "number", "minimum": 0, "maximum": 1}
_MODEL = {"model": record(name=_STRING, version=_STRING, digest=_STRING), "provider": _STRING}
_ERROR = record(code=_STRING, message=_STRING, field={"type": ["string", "null"]}, request_id=_STRING)
_TENSOR = record(name=_STRING, datatype=_STRING, shape=array(_INTEGER))
_IMAGE = {"type": "string", "format": "binary", "description": ", ".join(image.FORMATS)}
_VIDEO = {"type": "string", "format": "binary", "description": ", ".join(container.FORMATS)}
_CERTIFICATE = {
    **record(kind={"enum": ["masks", "noise"]}, certified=_BOOLEAN, passes=_INTEGER, confidence=_PROBABILITY),
    "description": "With certify=true: what is proved of the answer, see docs/http.md",
}
_TOP_K = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}


async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(document(request.app.state.service))


def document(state: WorkerState) -> Json:
    """An OpenAPI 3.1 document with the names and input shapes of the models in service."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "abnn_serve", "version": __version__, "description": _DESCRIPTION},
        "paths": {**_image_paths(state), **_video_paths(state), **_info_paths(state), **_v2_paths(state)},
        "security": [{"key": []}] if state.keys else [],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": record(error=_ERROR),
                "ProtocolError": record(error=_STRING, **_ERROR["properties"]),
            },
        },
    }


def _image_paths(state: WorkerState) -> Json:
    if not (names := _names(state, "image")):
        return {}
    images = {**array(_IMAGE), "minItems": 1, "maxItems": state.limits.max_parts}
    outcome = {"oneOf": [_answer(state), record(error=record(code=_STRING, message=_STRING))]}
    return {
        "/classify": {
            "post": operation(
                "Classify one image",
                _answer(state, **_MODEL),
                errors=_ERRORS,
                parameters=_query(state, names) + _certify(state, "image"),
                body={"multipart/form-data": form("image", _IMAGE, "image/*"), "image/*": {"schema": _IMAGE}},
                curl="curl -F image=@cat.png localhost:3000/classify",
            )
        },
        "/classify_batch": {
            "post": operation(
                "Classify several images; one outcome per image",
                record(outcomes=array(outcome), **_MODEL),
                errors=_ERRORS,
                parameters=_query(state, names) + _certify(state, "image"),
                body={"multipart/form-data": form("images", images)},
                curl="curl -F images=@cat.png -F images=@dog.jpg localhost:3000/classify_batch",
            )
        },
    }


def _video_paths(state: WorkerState) -> Json:
    if not (names := _names(state, "video")):
        return {}
    clip = _answer(None, start=_NUMBER, end=_NUMBER, frames=array(_INTEGER))
    frames = record(expected={"type": ["integer", "null"]}, found=_INTEGER, decoded=_INTEGER, lost=_INTEGER)
    return {
        "/classify_video": {
            "post": operation(
                "Classify one video; also returns the classes and frames of each clip",
                _answer(state, clips=array(clip), frames=frames, seconds=_NUMBER, **_MODEL),
                errors=_ERRORS,
                parameters=_query(state, names) + _certify(state, "video"),
                body={"multipart/form-data": form("video", _VIDEO, "video/*"), "video/*": {"schema": _VIDEO}},
                curl="curl -F video=@clip.mp4 localhost:3000/classify_video",
            )
        }
    }


def _info_paths(state: WorkerState) -> Json:
    description = record(
        **_MODEL["model"]["properties"], provider=_STRING, labels=array(_STRING), card={"type": "object"}
    )
    row = record(**_MODEL, modality={"enum": ["image", "video"]}, certifies=_BOOLEAN)
    return {
        "/model": {
            "get": operation(
                "Describe a model: where it runs, its labels and its robustness card",
                description,
                errors=(404,),
                parameters=_query(state, _names(state))[1:3],
            )
        },
        "/models": {"get": operation("List all models, the default first", record(models=array(row)))},
        "/livez": {"get": operation("Liveness", record(live=_BOOLEAN), public=True)},
        "/readyz": {"get": operation("Readiness", record(ready=_BOOLEAN), errors=(503,), public=True)},
    }


def _v2_paths(state: WorkerState) -> Json:
    outputs = array(record(**_TENSOR["properties"], data=array({"type": ["number", "boolean"]})))
    return {
        "/v2": {
            "get": operation(
                "Server metadata (Open Inference Protocol)", record(name=_STRING, extensions=array(_STRING)), is_v2=True
            )
        },
        "/v2/models/{name}": {
            "get": operation(
                "Model metadata: inputs and outputs",
                record(name=_STRING, versions=array(_STRING), inputs=array(_TENSOR), outputs=array(_TENSOR)),
                errors=(404,),
                parameters=[path_parameter("name", _names(state))],
                is_v2=True,
            )
        },
        **{
            f"/v2/models/{model.name}/infer": {
                "post": operation(
                    f"Logits of samples that have the model's input shape; binary data may follow, see {HEADER}",
                    record(model_name=_STRING, model_version=_STRING, outputs=outputs),
                    errors=_ERRORS,
                    parameters=_certify(state, model.modality) if model.predictor.rule.certifies else [],
                    body={"application/json": _infer_body(model.spec, state.limits.max_parts)},
                    is_v2=True,
                )
            }
            for model in map(state.catalog.get, _names(state))
        },
    }


def _infer_body(spec: InputSpec, max_samples: int) -> Json:
    shape, values = list(spec.shape), math.prod(spec.shape)
    dimensions = [{"type": "integer", "minimum": 1, "maximum": max_samples}, *({"const": size} for size in shape)]
    tensor = record(
        name={"const": spec.modality},
        datatype={"const": "UINT8"},
        shape={"type": "array", "prefixItems": dimensions, "minItems": len(dimensions), "maxItems": len(dimensions)},
        data={**array({"type": "integer", "minimum": 0, "maximum": 255}), "minItems": values},
    )
    schema = record(inputs={**array(tensor), "minItems": 1, "maxItems": 1})
    example = {"name": spec.modality, "datatype": "UINT8", "shape": [1, *shape], "data": [_GREY] * values}
    return {"schema": schema, **({"example": {"inputs": [example]}} if values <= _MAX_EXAMPLE_VALUES else {})}


def _names(state: WorkerState, modality: str | None = None) -> list[str]:
    return list(dict.fromkeys(model.name for model in state.catalog.all() if modality in (None, model.modality)))


def _answer(state: WorkerState | None, **properties: Json) -> Json:
    """An answer with these further properties, and a certificate where it was requested; or a label alone."""
    schema = record(**_PREDICTION, **properties)
    schema = {**schema, "properties": {**schema["properties"], "certificate": _CERTIFICATE}}
    if state is None or state.limits.near_duplicates != "label-only":
        return schema
    identity = _MODEL if "model" in properties else {}
    return {"anyOf": [schema, record(label=_STRING, index=_INTEGER, label_only={"const": True}, **identity)]}


def _certify(state: WorkerState, modality: str) -> list[Json]:
    """The parameter `certify`, if a model of this modality can."""
    if not any(model.predictor.rule.certifies for model in state.catalog.all() if model.modality == modality):
        return []
    return [query_parameter("certify", {"type": "string", "enum": ["true", "false"], "default": "false"}, "true")]


def _query(state: WorkerState, names: list[str]) -> list[Json]:
    versions = sorted({version for name in names for version in state.catalog.versions(name)})
    return [
        query_parameter("top_k", _TOP_K, 3),
        query_parameter("model", {"type": "string", "enum": names}, names[0]),
        query_parameter("version", {"type": "string", "enum": versions}, state.catalog.versions(names[0])[0]),
        query_parameter("abstain_below", _ABSTAIN_BELOW, 0.6),
    ]
