"""The bytes of a file in a request, never more than the limit: a multipart field, or the raw body."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import anyio
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from abnn_serve.errors import InputTooLargeError
from abnn_serve.service.errors import BadRequestError, SlowUploadError, UnsupportedMediaTypeError, WrongPartError

_ENVELOPE = 16_384  # what multipart headers and boundaries may add to the file


async def read_upload(request: Request, kind: str, max_bytes: int, seconds: int) -> bytes:
    """The encoded file that a client sent; `kind` is the name of its form field and its media type.

    Raises:
        InputTooLargeError: more than `max_bytes`.
        SlowUploadError: not all there after `seconds`.
        UnsupportedMediaTypeError: the body is neither multipart nor `kind`/* nor application/octet-stream.
        BadRequestError, WrongPartError: a damaged form, or one without a file `kind`. Text is never taken for a URL.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent == "multipart/form-data":
        return await _from_form(request, kind, max_bytes, seconds)
    if sent.startswith(f"{kind}/") or sent == "application/octet-stream":
        return await _body(request, max_bytes, max_bytes, seconds)
    raise UnsupportedMediaTypeError(
        f"content type is {sent[:80] or 'missing'!r}, expected multipart/form-data with a file field {kind!r}, "
        f"or a raw {kind}/* body",
        field="content-type",
    )


async def _body(request: Request, limit: int, max_bytes: int, seconds: int) -> bytes:
    too_large = InputTooLargeError(f"the upload exceeds the limit of {max_bytes:,} bytes")
    declared = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,18}", declared) and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise SlowUploadError(f"the upload did not arrive within {seconds} seconds") from None
    except ClientDisconnect:
        raise BadRequestError("the connection closed before the upload was complete") from None
    return bytes(body)


async def _from_form(request: Request, kind: str, max_bytes: int, seconds: int) -> bytes:
    body = await _body(request, max_bytes + _ENVELOPE, max_bytes, seconds)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or "malformed"
        raise BadRequestError(f"the multipart form cannot be read: {reason}", field=kind) from error
    try:
        part = form.get(kind)
        if part is None:
            raise BadRequestError(f"the form has no field {kind!r}, expected one file under that name", field=kind)
        if not isinstance(part, UploadFile):
            raise WrongPartError(f"field {kind!r} is text, expected a file; addresses are not fetched", field=kind)
        return await part.read()
    finally:
        await form.close()
