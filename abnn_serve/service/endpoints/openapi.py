"""GET /openapi.json: the HTTP interface of what is served now, with examples that work."""

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
from abnn_serve.service.worker import State
from abnn_serve.spec import InputSpec
from abnn_serve.version import __version__

_MAX_EXAMPLE = 20_000  # values; the document of a model with larger inputs has no tensor in it
_GREY = 128
_REFUSALS = (400, 404, 408, 413, 415, 422, 503)
_LIMITS = (
    "A text part is never taken for an address. What is refused says why in one schema; 503 says when to come again."
)

_TEXT, _NUMBER, _WHOLE, _FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SCORE = record(label=_TEXT, index=_WHOLE, probability=_SHARE)
_ANSWER = {**_SCORE["properties"], "top": array(_SCORE)}
_WHO = {"model": record(name=_TEXT, version=_TEXT, digest=_TEXT), "provider": _TEXT}
_ERROR = record(code=_TEXT, message=_TEXT, field={"type": ["string", "null"]}, request_id=_TEXT)
_TENSOR = record(name=_TEXT, datatype=_TEXT, shape=array(_WHOLE))
_IMAGE = {"type": "string", "format": "binary", "description": ", ".join(image.FORMATS)}
_VIDEO = {"type": "string", "format": "binary", "description": ", ".join(container.FORMATS)}
_TOP_K = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}


async def openapi(request: Request) -> Response:
    """The document."""
    return JSONResponse(document(request.app.state.service))


def document(state: State) -> Json:
    """OpenAPI 3.1 with the names and shapes of the bundles that are served."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "abnn_serve", "version": __version__, "description": f"Classifies pictures. {_LIMITS}"},
        "paths": {**_images(state), **_videos(state), **_about(state), **_protocol(state)},
        "security": [{"key": []}] if state.keys else [],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": record(error=_ERROR),
                "ProtocolError": record(error=_TEXT, **_ERROR["properties"]),
            },
        },
    }


def _images(state: State) -> Json:
    if not (names := _names(state, "image")):
        return {}
    images = {**array(_IMAGE), "minItems": 1, "maxItems": state.limits.max_parts}
    outcome = {"oneOf": [record(**_ANSWER), record(error=record(code=_TEXT, message=_TEXT))]}
    return {
        "/classify": {
            "post": operation(
                "The most probable classes of one image",
                record(**_ANSWER, **_WHO),
                refusals=_REFUSALS,
                parameters=_options(names),
                body={"multipart/form-data": form("image", _IMAGE, "image/*"), "image/*": {"schema": _IMAGE}},
                curl="curl -F image=@cat.png localhost:3000/classify",
            )
        },
        "/classify_batch": {
            "post": operation(
                "The most probable classes of several images, an outcome each",
                record(outcomes=array(outcome), **_WHO),
                refusals=_REFUSALS,
                parameters=_options(names),
                body={"multipart/form-data": form("images", images)},
                curl="curl -F images=@cat.png -F images=@dog.jpg localhost:3000/classify_batch",
            )
        },
    }


def _videos(state: State) -> Json:
    if not (names := _names(state, "video")):
        return {}
    clip = record(start=_NUMBER, end=_NUMBER, frames=array(_WHOLE), **_ANSWER)
    frames = record(expected={"type": ["integer", "null"]}, found=_WHOLE, decoded=_WHOLE, lost=_WHOLE)
    return {
        "/classify_video": {
            "post": operation(
                "The most probable classes of one video, and those of its clips with the frames that were used",
                record(**_ANSWER, clips=array(clip), frames=frames, seconds=_NUMBER, **_WHO),
                refusals=_REFUSALS,
                parameters=_options(names),
                body={"multipart/form-data": form("video", _VIDEO, "video/*"), "video/*": {"schema": _VIDEO}},
                curl="curl -F video=@clip.mp4 localhost:3000/classify_video",
            )
        }
    }


def _about(state: State) -> Json:
    described = record(**_WHO["model"]["properties"], provider=_TEXT, labels=array(_TEXT), card={"type": "object"})
    served = record(**_WHO, modality={"enum": ["image", "video"]})
    return {
        "/model": {
            "get": operation(
                "What answers, where it runs, and what was measured on it",
                described,
                refusals=(404,),
                parameters=_options(_names(state))[1:],
            )
        },
        "/models": {"get": operation("Every bundle, the default first", record(models=array(served)))},
        "/livez": {"get": operation("The process answers", record(live=_FLAG), open_to_all=True)},
        "/readyz": {
            "get": operation("It is ready for requests", record(ready=_FLAG), refusals=(503,), open_to_all=True)
        },
    }


def _protocol(state: State) -> Json:
    outputs = array(record(**_TENSOR["properties"], data=array(_NUMBER)))
    return {
        "/v2": {
            "get": operation(
                "The server, to the Open Inference Protocol", record(name=_TEXT, extensions=array(_TEXT)), flat=True
            )
        },
        "/v2/models/{name}": {
            "get": operation(
                "A model's inputs and outputs",
                record(name=_TEXT, versions=array(_TEXT), inputs=array(_TENSOR), outputs=array(_TENSOR)),
                refusals=(404,),
                parameters=[path_parameter("name", _names(state))],
                flat=True,
            )
        },
        **{
            f"/v2/models/{served.name}/infer": {
                "post": operation(
                    f"Logits of samples of the model's size; bytes may follow the JSON, see {HEADER}",
                    record(model_name=_TEXT, model_version=_TEXT, outputs=outputs),
                    refusals=_REFUSALS,
                    body={"application/json": _infer(served.spec, state.limits.max_parts)},
                    flat=True,
                )
            }
            for served in state.catalog.all()
        },
    }


def _infer(spec: InputSpec, most: int) -> Json:
    shape, values = list(spec.shape), math.prod(spec.shape)
    sizes = [{"type": "integer", "minimum": 1, "maximum": most}, *({"const": side} for side in shape)]
    tensor = record(
        name={"const": spec.modality},
        datatype={"const": "UINT8"},
        shape={"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
        data={**array({"type": "integer", "minimum": 0, "maximum": 255}), "minItems": values},
    )
    schema = record(inputs={**array(tensor), "minItems": 1, "maxItems": 1})
    sent = {"name": spec.modality, "datatype": "UINT8", "shape": [1, *shape], "data": [_GREY] * values}
    return {"schema": schema, **({"example": {"inputs": [sent]}} if values <= _MAX_EXAMPLE else {})}


def _names(state: State, modality: str | None = None) -> list[str]:
    return [served.name for served in state.catalog.all() if modality in (None, served.modality)]


def _options(names: list[str]) -> list[Json]:
    return [query_parameter("top_k", _TOP_K, 3), query_parameter("model", {"type": "string", "enum": names}, names[0])]
