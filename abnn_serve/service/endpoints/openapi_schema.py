"""Building blocks of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from abnn_serve.service.upload import MAX_FIELDS

Json = dict[str, Any]

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


def operation(
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
    """One method of one path; `flat` has the Open Inference Protocol's schema of an error."""
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


def form(field: str, schema: Json, files: str | None = None) -> Json:
    """A multipart body with files of one media type, and room for a few texts that are ignored."""
    fields = {**record(**{field: schema}), "additionalProperties": {"type": "string"}, "maxProperties": MAX_FIELDS + 1}
    return {"schema": fields, **({"encoding": {field: {"contentType": files}}} if files else {})}


def query_parameter(name: str, schema: Json, example: Any) -> Json:
    """An optional parameter of the query."""
    return {"name": name, "in": "query", "required": False, "schema": schema, "example": example}


def path_parameter(name: str, values: list[str]) -> Json:
    """A part of the path that is one of `values`."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}


def array(items: Json) -> Json:
    """Any number of `items`."""
    return {"type": "array", "items": items}


def record(**properties: Json) -> Json:
    """An object with exactly these properties required."""
    return {"type": "object", "properties": properties, "required": list(properties)}
