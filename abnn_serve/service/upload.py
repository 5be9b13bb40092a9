"""Reads uploads under limits: the files of a multipart form, or one raw body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from abnn_serve.errors import InputTooLargeError
from abnn_serve.service.admission import UploadBytes
from abnn_serve.service.errors import (
    BadRequestError,
    SlowUploadError,
    UnsupportedMediaTypeError,
)
from abnn_serve.service.multipart import FormParser

_FORM_OVERHEAD = 16_384  # bytes of multipart headers and boundaries
_THREAD_BYTES = 1_100_000  # from about here on, joining bytes releases the GIL


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


async def read_body(request: Request, max_bytes: int, seconds: int, counter: UploadBytes) -> bytes:
    """Read a request body.

    Raises:
        InputTooLargeError: more than `max_bytes`.
        SlowUploadError: the body did not arrive within `seconds`.
        BadRequestError: the client closed the connection.
        BusyError: as `read_upload`.
    """
    pieces: list[bytes] = []
    await _receive(request, max_bytes, 0, seconds, counter, pieces.append)
    return await _join(pieces)


async def _read_form(request: Request, spec: UploadSpec, counter: UploadBytes) -> Upload:
    form = FormParser(request.headers["content-type"], spec.field, spec.max_files)
    overhead = _FORM_OVERHEAD + 256 * spec.max_files
    await _receive(request, spec.max_bytes, overhead, spec.seconds, counter, form.feed)
    fields = form.finish()
    return Upload(files=[await _join(pieces) for pieces in form.files], fields=fields)


async def _receive(
    request: Request, max_bytes: int, overhead: int, seconds: int, counter: UploadBytes, take: Callable[[bytes], None]
) -> None:
    """Call `take` with each piece of the body, which may have `max_bytes` and `overhead` bytes."""
    too_large = InputTooLargeError(f"the upload exceeds the limit of {max_bytes:,} bytes; send a smaller file")
    declared = request.headers.get("content-length", "")
    if re.fullmatch(r"[0-9]{1,18}", declared) and int(declared) > max_bytes + overhead:
        raise too_large
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                counter.add(len(piece))
                if counter.count > max_bytes + overhead:
                    raise too_large
                take(piece)
    except TimeoutError:
        raise SlowUploadError(f"the upload did not arrive within {seconds} s") from None
    except ClientDisconnect:
        raise BadRequestError("the client closed the connection during the upload") from None


async def _join(pieces: list[bytes]) -> bytes:
    """The pieces as one; a thread copies large files, because that takes 10 ms for 50 MB and does not need the GIL."""
    if len(pieces) == 1:
        return pieces[0]
    if sum(map(len, pieces)) < _THREAD_BYTES:
        return b"".join(pieces)
    return await asyncio.to_thread(b"".join, pieces)
