"""HTTP errors, all in one schema: {"error": {"code", "message", "field", "request_id"}}.

Under /v2 the Open Inference Protocol requires `error` to be the message, so the other keys stand beside it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from abnn_serve.errors import DecoderError, InputError

log = logging.getLogger("abnn_serve")


class BadRequestError(InputError):
    """Malformed request. `field` names the part of the request at fault."""

    code = "bad_request"
    status = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnauthorizedError(BadRequestError):
    """Missing or unknown API key."""

    code = "unauthorized"
    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class UnknownHostError(BadRequestError):
    """The Host header names another server."""

    code = "unknown_host"
    status = 421


class UnknownModelError(BadRequestError):
    """No served bundle has the requested name or version."""

    code = "unknown_model"
    status = 404


class TooManyPartsError(BadRequestError):
    """More files or samples in one request than ABNN_MAX_PARTS."""

    code = "too_many_parts"
    status = 413


class UnsupportedMediaTypeError(BadRequestError):
    """Content type or content encoding that the endpoint does not accept."""

    code = "unsupported_media_type"
    status = 415


class WrongPartError(BadRequestError):
    """A form field holds text where a file is expected."""

    code = "wrong_part"
    status = 422


class SlowUploadError(BadRequestError):
    """The body did not arrive within ABNN_UPLOAD_SECONDS."""

    code = "request_timeout"
    status = 408


class BusyError(InputError):
    """The server is at a limit; `Retry-After` tells the client to wait `seconds`, rounded up."""

    code = "busy"
    status = 503
    field = None

    def __init__(self, message: str, *, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(max(1, math.ceil(seconds)))}


class TooManyRequestsError(BusyError):
    """The API key is at one of its limits; the server is not."""

    code = "too_many_requests"
    status = 429


class DeadlineError(BusyError):
    """An accepted request was not answered within ABNN_DEADLINE_SECONDS."""

    code = "deadline_exceeded"


def error_response(error: InputError, scope: Scope) -> Response:
    """The response for a rejected request."""
    field = getattr(error, "field", scope["state"].get("field", "image"))
    return _response(scope, error.status, error.code, str(error), field, getattr(error, "headers", {}))


def internal_error_response(error: Exception, scope: Scope) -> Response:
    """The response for an unexpected exception: the client gets no details, the log gets the traceback."""
    log.error("request failed", exc_info=error)
    message = "internal server error; the server log has details under this request_id"
    return _response(scope, 500, "internal_error", message, None, {})


def error_body(code: str, message: str, field: str | None, request_id: str, path: str = "") -> bytes:
    """An error as JSON, in the schema that `path` uses."""
    error = {"code": code, "message": message, "field": field, "request_id": request_id}
    is_v2 = path == "/v2" or path.startswith("/v2/")
    return json.dumps({"error": message, **error} if is_v2 else {"error": error}).encode()


def _response(
    scope: Scope, status: int, code: str, message: str, field: str | None, headers: Mapping[str, str]
) -> Response:
    scope["state"]["code"] = code
    body = error_body(code, message, field, scope["state"]["request_id"], scope["path"])
    return Response(body, status, headers=dict(headers), media_type="application/json")


async def _handle_input_error(request: Request, error: InputError) -> Response:
    return error_response(error, request.scope)


async def _handle_decoder_error(request: Request, error: DecoderError) -> Response:
    return error_response(BusyError(str(error)), request.scope)


async def _handle_http_error(request: Request, error: HTTPException) -> Response:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _response(request.scope, error.status_code, code, str(error.detail), None, error.headers or {})


HANDLERS: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    InputError: _handle_input_error,
    DecoderError: _handle_decoder_error,
    HTTPException: _handle_http_error,
}
