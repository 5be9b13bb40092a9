"""GET /openapi.json: the HTTP interface of what is served now, with examples that work."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve import __version__
from abnn_serve.service.state import State
from abnn_serve.service.tensors import HEADER, INPUT
from abnn_serve.service.upload import MAX_FIELDS

Json = dict[str, Any]
_MAX_EXAMPLE = 20_000  # values; the document of a model with larger inputs has no tensor in it
_GREY = 128


async def openapi(request: Request) -> Response:
    """The document."""
    return JSONResponse(document(request.app.state.service))


def document(state: State) -> Json:
    """OpenAPI 3.1 with the names and shapes of the bundles that are served."""
    default = state.catalog.get()
    bundle, names = default.predictor.bundle, [served.name for served in state.catalog.all()]
    shape = list(bundle.manifest.input.shape)
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    score = _object(label=text, index=whole, probability=probability)
    answer = _object(label=text, index=whole, probability=probability, top=_list(score))
    who = {"model": _object(name=text, version=text, digest=text), "provider": text}
    outcome = {"oneOf": [answer, _object(error=_object(code=text, message=text))]}
    error = _object(code=text, message=text, field={"type": ["string", "null"]}, request_id=text)
    tensor = _object(name=text, datatype=text, shape=_list(whole))
    image = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, BMP, GIF or TIFF"}
    top_k = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}
    options = [_query("top_k", top_k, 3), _query("model", {"type": "string", "enum": names}, names[0])]
    paths: Json = {
        "/classify": {
            "post": _operation(
                "The most probable classes of one image",
                _object(**answer["properties"], **who),
                refusals=(400, 404, 408, 413, 415, 422, 503),
                parameters=options,
                body={"multipart/form-data": _form("image", image), "image/*": {"schema": image}},
                curl="curl -F image=@cat.png localhost:3000/classify",
            )
        },
        "/classify_batch": {
            "post": _operation(
                "The most probable classes of several images, an outcome each",
                _object(outcomes=_list(outcome), **who),
                refusals=(400, 404, 408, 413, 415, 422, 503),
                parameters=options,
                body={
                    "multipart/form-data": _form(
                        "images", {**_list(image), "minItems": 1, "maxItems": state.limits.max_parts}
                    )
                },
                curl="curl -F images=@cat.png -F images=@dog.jpg localhost:3000/classify_batch",
            )
        },
        "/model": {
            "get": _operation(
                "What answers, where it runs, and what was measured on it",
                _object(
                    name=text, version=text, digest=text, provider=text, labels=_list(text), card={"type": "object"}
                ),
                refusals=(404,),
                parameters=options[1:],
            )
        },
        "/models": {"get": _operation("Every bundle, the default first", _object(models=_list(_object(**who))))},
        "/livez": {"get": _operation("The process answers", _object(live={"type": "boolean"}), open_to_all=True)},
        "/readyz": {
            "get": _operation(
                "It is ready for requests", _object(ready={"type": "boolean"}), refusals=(503,), open_to_all=True
            )
        },
        "/v2": {
            "get": _operation(
                "The server, to the Open Inference Protocol", _object(name=text, extensions=_list(text)), flat=True
            )
        },
        "/v2/models/{name}": {
            "get": _operation(
                "A model's inputs and outputs",
                _object(name=text, versions=_list(text), inputs=_list(tensor), outputs=_list(tensor)),
                refusals=(404,),
                parameters=[_path("name", names)],
                flat=True,
            )
        },
        "/v2/models/{name}/infer": {
            "post": _operation(
                f"Logits of samples of the model's size; bytes may follow the JSON, see {HEADER}",
                _object(
                    model_name=text,
                    model_version=text,
                    outputs=_list(_object(**tensor["properties"], data=_list(number))),
                ),
                refusals=(400, 404, 408, 413, 415, 422, 503),
                parameters=[_path("name", names)],
                body={"application/json": _infer(shape, state.limits.max_parts)},
                flat=True,
            )
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "abnn_serve", "version": __version__, "description": "Classifies pictures. " + _LIMITS},
        "paths": paths,
        "security": [{"key": []}] if state.keys else [],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": _object(error=error),
                "ProtocolError": _object(error=text, **error["properties"]),
            },
        },
    }


_LIMITS = (
    "A text part is never taken for an address. What is refused says why in one schema; 503 says when to come again."
)
_MEANING = {
    400: "Not readable",
    401: "No known API key",
    404: "No such model",
    408: "Too slow an upload",
    413: "Too large",
    415: "Not a supported format",
    422: "Another kind or shape than expected",
    503: "Full, or leaving: come again after Retry-After seconds",
}


def _operation(
    summary: str,
    result: Json,
    *,
    refusals: tuple[int, ...] = (),
    parameters: list[Json] | None = None,
    body: Json | None = None,
    curl: str | None = None,
    open_to_all: bool = False,
    flat: bool = False,
) -> Json:
    schema = {"$ref": "#/components/schemas/ProtocolError" if flat else "#/components/schemas/Error"}
    statuses = refusals if open_to_all else (*refusals, 401)
    refused = {
        str(status): {"description": _MEANING[status], "content": {"application/json": {"schema": schema}}}
        for status in sorted(statuses)
    }
    return {
        "summary": summary,
        "responses": {"200": {"description": "Done", "content": {"application/json": {"schema": result}}}, **refused},
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"required": True, "content": body}} if body else {}),
        **({"x-codeSamples": [{"lang": "Shell", "source": curl}]} if curl else {}),
        **({"security": []} if open_to_all else {}),
    }


def _infer(shape: list[int], most: int) -> Json:
    size = shape[0] * shape[1] * shape[2]
    pixel = {"type": "integer", "minimum": 0, "maximum": 255}
    sizes = [{"type": "integer", "minimum": 1, "maximum": most}, *({"const": side} for side in shape)]
    tensor = _object(
        name={"const": INPUT},
        datatype={"const": "UINT8"},
        shape={"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
        data={**_list(pixel), "minItems": size},
    )
    schema = _object(inputs={**_list(tensor), "minItems": 1, "maxItems": 1})
    sent = {"name": INPUT, "datatype": "UINT8", "shape": [1, *shape], "data": [_GREY] * size}
    return {"schema": schema, **({"example": {"inputs": [sent]}} if size <= _MAX_EXAMPLE else {})}


def _form(field: str, schema: Json) -> Json:
    return {"schema": {**_object(**{field: schema}), "maxProperties": MAX_FIELDS + 1}}


def _query(name: str, schema: Json, example: Any) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "example": example}


def _path(name: str, values: list[str]) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}
