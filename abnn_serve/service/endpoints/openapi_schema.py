"""Building blocks of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from abnn_serve.service.multipart import MAX_TEXTS

Json = dict[str, Any]

_DESCRIPTIONS = {
    400: "Unreadable input or malformed request",
    401: "Missing or unknown API key",
    404: "Unknown model",
    408: "The upload took too long",
    413: "The input exceeds a limit",
    415: "Unsupported format or content type",
    422: "Wrong kind of field, or wrong shape",
    429: "The API key is at one of its limits; retry after Retry-After seconds",
    503: "Busy, starting up or shutting down; retry after Retry-After seconds",
}


def operation(
    summary: str,
    result: Json,
    *,
    errors: tuple[int, ...] = (),
    parameters: list[Json] | None = None,
    body: Json | None = None,
    curl: str | None = None,
    public: bool = False,
    is_v2: bool = False,
) -> Json:
    """An OpenAPI operation.

    Args:
        summary: one line.
        result: schema of the 200 response.
        errors: status codes of errors, besides 401 and 429.
        parameters: path and query parameters.
        body: media types of the request body.
        curl: an example command.
        public: the operation needs no API key.
        is_v2: errors have the Open Inference Protocol's schema.
    """
    schema = {"$ref": "#/components/schemas/ProtocolError" if is_v2 else "#/components/schemas/Error"}
    statuses = errors if public else (*errors, 401, 429)
    error_responses = {
        str(status): {"description": _DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}
        for status in sorted(statuses)
    }
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": result}}},
            **error_responses,
        },
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"required": True, "content": body}} if body else {}),
        **({"x-codeSamples": [{"lang": "Shell", "source": curl}]} if curl else {}),
        **({"security": []} if public else {}),
    }


def form(field: str, schema: Json, content_type: str | None = None) -> Json:
    """A multipart body with one file field, and up to MAX_TEXTS text fields."""
    fields = {**record(**{field: schema}), "additionalProperties": {"type": "string"}, "maxProperties": MAX_TEXTS + 1}
    return {"schema": fields, **({"encoding": {field: {"contentType": content_type}}} if content_type else {})}


def query_parameter(name: str, schema: Json, example: Any) -> Json:
    """An optional query parameter."""
    return {"name": name, "in": "query", "required": False, "schema": schema, "example": example}


def path_parameter(name: str, values: list[str]) -> Json:
    """A path parameter that takes one of `values`."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}


def array(items: Json) -> Json:
    """An array of any length."""
    return {"type": "array", "items": items}


def record(**properties: Json) -> Json:
    """An object with these properties, all required."""
    return {"type": "object", "properties": properties, "required": list(properties)}
