"""What a client sent: files of a multipart form, or one raw body; never more than the limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from abnn_serve.errors import InputTooLargeError
from abnn_serve.service.admission import Account
from abnn_serve.service.errors import (
    BadRequestError,
    SlowUploadError,
    TooManyPartsError,
    UnsupportedMediaTypeError,
    WrongPartError,
)

_ENVELOPE = 16_384  # what multipart headers and boundaries may add to a file
MAX_FIELDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSpec:
    """What an endpoint takes.

    Attributes:
        field: name of the file field.
        kind: media type of a raw body, without its subtype: `image` or `video`; None takes forms only.
        max_bytes: of all files together.
        max_files: under that name.
        seconds: that the body may take to arrive.
    """

    field: str
    kind: str | None
    max_bytes: int
    seconds: int
    max_files: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The files, in the order in which they were sent, and the form's text fields."""

    files: list[bytes]
    fields: dict[str, str]


async def read_upload(request: Request, spec: UploadSpec, account: Account) -> Upload:
    """The encoded files that a client sent.

    Raises:
        InputTooLargeError: more than `spec.max_bytes`.
        TooManyPartsError: more than `spec.max_files`.
        SlowUploadError: not all there after `spec.seconds`.
        UnsupportedMediaTypeError: a body of another type.
        BadRequestError, WrongPartError: a damaged form, or one without the file. Text is never taken for a URL.
        BusyError: no room in `account`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, spec, account)
    if spec.kind and (kind.startswith(f"{spec.kind}/") or kind == "application/octet-stream"):
        return Upload(files=[await read_body(request, spec.max_bytes, spec.seconds, account)], fields={})
    raw = f", or a raw {spec.kind}/* body" if spec.kind else ""
    raise UnsupportedMediaTypeError(
        f"content type is {kind[:80] or 'missing'!r}, expected multipart/form-data with a file field "
        f"{spec.field!r}{raw}",
        field="content-type",
    )


async def read_body(request: Request, max_bytes: int, seconds: int, account: Account, *, slack: int = 0) -> bytes:
    """The whole body, at most `max_bytes` and `slack`, within `seconds`."""
    too_large = InputTooLargeError(f"the upload exceeds the limit of {max_bytes:,} bytes")
    declared = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,18}", declared) and int(declared) > max_bytes + slack:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                account.grow(len(chunk))
                body += chunk
                if len(body) > max_bytes + slack:
                    raise too_large
    except TimeoutError:
        raise SlowUploadError(f"the upload did not arrive within {seconds} seconds") from None
    except ClientDisconnect:
        raise BadRequestError("the connection closed before the upload was complete") from None
    return bytes(body)


async def _from_form(request: Request, spec: UploadSpec, account: Account) -> Upload:
    body = await read_body(request, spec.max_bytes, spec.seconds, account, slack=_ENVELOPE + 256 * spec.max_files)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=spec.max_files, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AttributeError) as error:
        reason = str(getattr(error, "message", None) or "malformed")
        if reason.startswith("Too many files"):
            raise TooManyPartsError(
                f"the form has more files than the limit of {spec.max_files}", field=spec.field
            ) from None
        raise BadRequestError(f"the multipart form cannot be read: {reason}", field=spec.field) from error
    try:
        parts = form.getlist(spec.field)
        if not parts:
            raise BadRequestError(
                f"the form has no field {spec.field!r}, expected a file under that name", field=spec.field
            )
        if any(not isinstance(part, UploadFile) for part in parts):
            raise WrongPartError(
                f"field {spec.field!r} is text, expected a file; addresses are not fetched", field=spec.field
            )
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        return Upload(files=[await part.read() for part in parts if isinstance(part, UploadFile)], fields=fields)
    finally:
        await form.close()
