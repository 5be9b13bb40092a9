"""Reads uploads under limits: the files of a multipart form, or one raw body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from abnn_serve.errors import InputTooLargeError
from abnn_serve.service.admission import UploadBytes
from abnn_serve.service.errors import (
    BadRequestError,
    SlowUploadError,
    TooManyPartsError,
    UnsupportedMediaTypeError,
    WrongPartError,
)

_FORM_OVERHEAD = 16_384  # bytes of multipart headers and boundaries
MAX_FIELDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSpec:
    """What an endpoint accepts.

    Attributes:
        field: name of the file field.
        media_type: `image` or `video` accepts raw bodies of that type, too; None accepts only forms.
        max_bytes: limit for all files together.
        max_files: limit for files under `field`.
        seconds: time for the body to arrive.
    """

    field: str
    media_type: str | None
    max_bytes: int
    seconds: int
    max_files: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The files, in the order in which the client sent them, and the form's text fields."""

    files: list[bytes]
    fields: dict[str, str]


async def read_upload(request: Request, spec: UploadSpec, counter: UploadBytes) -> Upload:
    """Read the encoded files of a request. URLs are never fetched.

    Raises:
        InputTooLargeError: more bytes than `spec.max_bytes`.
        TooManyPartsError: more files than `spec.max_files`.
        SlowUploadError: the body did not arrive within `spec.seconds`.
        UnsupportedMediaTypeError: another content type.
        BadRequestError: a malformed form, or no field `spec.field`.
        WrongPartError: `spec.field` is text instead of a file.
        BusyError: the uploads of all requests together exceed their limit.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_form(request, spec, counter)
    if spec.media_type and (
        content_type.startswith(f"{spec.media_type}/") or content_type == "application/octet-stream"
    ):
        return Upload(files=[await read_body(request, spec.max_bytes, spec.seconds, counter)], fields={})
    quoted = repr(content_type[:80]) if content_type else "missing"
    alternative = f", or a raw {spec.media_type}/* body" if spec.media_type else ""
    raise UnsupportedMediaTypeError(
        f"content type is {quoted}, expected multipart/form-data with a file field {spec.field!r}{alternative}",
        field="content-type",
    )


async def read_body(request: Request, max_bytes: int, seconds: int, counter: UploadBytes, *, slack: int = 0) -> bytes:
    """Read a request body.

    Raises:
        InputTooLargeError: more than `max_bytes` and `slack` bytes.
        SlowUploadError: the body did not arrive within `seconds`.
        BadRequestError: the client closed the connection.
        BusyError: as `read_upload`.
    """
    too_large = InputTooLargeError(f"the upload exceeds the limit of {max_bytes:,} bytes; send a smaller file")
    declared = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,18}", declared) and int(declared) > max_bytes + slack:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                counter.add(len(chunk))
                body += chunk
                if len(body) > max_bytes + slack:
                    raise too_large
    except TimeoutError:
        raise SlowUploadError(f"the upload did not arrive within {seconds} s") from None
    except ClientDisconnect:
        raise BadRequestError("the client closed the connection during the upload") from None
    return bytes(body)


async def _read_form(request: Request, spec: UploadSpec, counter: UploadBytes) -> Upload:
    body = await read_body(request, spec.max_bytes, spec.seconds, counter, slack=_FORM_OVERHEAD + 256 * spec.max_files)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=spec.max_files, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AttributeError) as error:
        reason = str(getattr(error, "message", None) or "malformed")
        if reason.startswith("Too many files"):
            raise TooManyPartsError(
                f"the form exceeds the limit of {spec.max_files} files; send several requests", field=spec.field
            ) from None
        raise BadRequestError(f"invalid multipart form: {reason}", field=spec.field) from error
    try:
        parts = form.getlist(spec.field)
        if not parts:
            raise BadRequestError(f"the form has no field {spec.field!r}, expected a file in it", field=spec.field)
        if any(not isinstance(part, UploadFile) for part in parts):
            raise WrongPartError(
                f"field {spec.field!r} is text, expected a file; URLs are never fetched", field=spec.field
            )
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        return Upload(files=[await part.read() for part in parts if isinstance(part, UploadFile)], fields=fields)
    finally:
        await form.close()
