"""One error schema for every refusal: {"error": {"code", "message", "field", "request_id"}}."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.errors import InputError

log = logging.getLogger("abnn_serve")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class BadRequestError(InputError):
    """A request that cannot be understood."""

    code = "bad_request"
    status = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnsupportedMediaTypeError(BadRequestError):
    """A body that is neither multipart nor an image."""

    code = "unsupported_media_type"
    status = 415


class WrongPartError(BadRequestError):
    """A form part of another kind than expected."""

    code = "wrong_part"
    status = 422


class BusyError(InputError):
    """As many requests as may be are inside; the client shall come again."""

    code = "busy"
    status = 503
    field = None


class SlowUploadError(BadRequestError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


def request_id(request: Request) -> str:
    """The client's X-Request-ID if it is well formed, else a new one; the same for the whole request."""
    known: str | None = getattr(request.state, "request_id", None)
    if known is None:
        sent = request.headers.get("x-request-id", "")
        known = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        request.state.request_id = known
    return known


async def _input_error(request: Request, error: InputError) -> Response:
    headers = {"Retry-After": "1"} if isinstance(error, BusyError) else None
    return _refusal(request, error.status, error.code, str(error), getattr(error, "field", _field(request)), headers)


def _field(request: Request) -> str:
    """What the endpoint calls the file that it takes."""
    return getattr(request.state, "field", "image")


async def _http_error(request: Request, error: HTTPException) -> Response:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _refusal(request, error.status_code, code, str(error.detail), None, error.headers)


async def _server_error(request: Request, error: Exception) -> Response:
    log.error("request %s failed", request_id(request), exc_info=error)
    return _refusal(request, 500, "internal_error", "the server failed; its log has the request id", None)


def _refusal(
    request: Request, status: int, code: str, message: str, field: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    body = {"code": code, "message": message, "field": field, "request_id": request_id(request)}
    return JSONResponse({"error": body}, status, headers={**(headers or {}), "X-Request-ID": request_id(request)})


HANDLERS: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    InputError: _input_error,
    HTTPException: _http_error,
    Exception: _server_error,
}
