"""One error schema for every refusal: {"error": {"code", "message", "field", "request_id"}}.

Under /v2 `error` is the message, as the Open Inference Protocol wants it, and the rest stands beside it.
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

from abnn_serve.errors import InputError

log = logging.getLogger("abnn_serve")


class BadRequestError(InputError):
    """A request that cannot be understood."""

    code = "bad_request"
    status = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnauthorizedError(BadRequestError):
    """No API key, or not one that is known."""

    code = "unauthorized"
    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class UnknownModelError(BadRequestError):
    """No bundle of that name is served."""

    code = "unknown_model"
    status = 404


class TooManyPartsError(BadRequestError):
    """More files in one request than may be."""

    code = "too_many_parts"
    status = 413


class UnsupportedMediaTypeError(BadRequestError):
    """A body of another type than the endpoint takes."""

    code = "unsupported_media_type"
    status = 415


class WrongPartError(BadRequestError):
    """A form part of another kind than expected."""

    code = "wrong_part"
    status = 422


class SlowUploadError(BadRequestError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


class BusyError(InputError):
    """There is no room; the client shall come again after `seconds`."""

    code = "busy"
    status = 503
    field = None

    def __init__(self, message: str, *, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(max(1, math.ceil(seconds)))}


class DeadlineError(BusyError):
    """Accepted, and not answered in time."""

    code = "deadline_exceeded"


def refusal(error: InputError, scope: Scope) -> Response:
    """The answer that says why a request is refused."""
    facts = (error.status, error.code, str(error), getattr(error, "field", scope["state"].get("field", "image")))
    return _answer(scope, *facts, getattr(error, "headers", {}))


def failure(error: Exception, scope: Scope) -> Response:
    """The answer to what should not have happened: nothing of it is told to the client."""
    log.error("request failed", exc_info=error)
    return _answer(scope, 500, "internal_error", "the server failed; its log has the request id", None, {})


def error_body(code: str, message: str, field: str | None, request_id: str, path: str = "") -> bytes:
    """The one error schema as JSON."""
    facts = {"code": code, "message": message, "field": field, "request_id": request_id}
    flat = path == "/v2" or path.startswith("/v2/")
    return json.dumps({"error": message, **facts} if flat else {"error": facts}).encode()


def _answer(
    scope: Scope, status: int, code: str, message: str, field: str | None, headers: Mapping[str, str]
) -> Response:
    scope["state"]["code"] = code
    body = error_body(code, message, field, scope["state"]["request_id"], scope["path"])
    return Response(body, status, headers=dict(headers), media_type="application/json")


async def _input_error(request: Request, error: InputError) -> Response:
    return refusal(error, request.scope)


async def _http_error(request: Request, error: HTTPException) -> Response:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _answer(request.scope, error.status_code, code, str(error.detail), None, error.headers or {})


HANDLERS: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    InputError: _input_error,
    HTTPException: _http_error,
}
