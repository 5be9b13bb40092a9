"""POST /classify and /classify_batch: pictures to their most probable classes."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.errors import InputError
from abnn_serve.runtime.answer import answer
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.endpoints.pipeline import Work
from abnn_serve.service.errors import BadRequestError
from abnn_serve.service.upload import Upload, UploadSpec, read_upload

_MAX_TOP_K = 1000


async def classify(request: Request) -> Response:
    """One image, as the multipart file field `image` or as the raw body."""
    work = Work(request, request.query_params.get("model"))
    top_k = top_k_of(request)
    async with work.received(partial(read_upload, request, _spec(work, "image", "image", 1))) as upload:
        top_k = top_k_of(request, upload)
        image = await work.decode(work.gate.decode(work.predictor, upload.files[0]))
        answered = await work.infer([image])
    prediction = work.predictor.prediction(answered.logits[0], top_k)
    return JSONResponse({**answer(prediction), **answerer(work.predictor)})


async def classify_batch(request: Request) -> Response:
    """Several images, as multipart file fields `images`; one outcome each, in their order."""
    work = Work(request, request.query_params.get("model"))
    spec = _spec(work, "images", None, work.limits.max_parts)
    async with work.received(partial(read_upload, request, spec)) as upload:
        top_k = top_k_of(request, upload)
        decoded = await work.decode(work.gate.decode_all(work.predictor, upload.files))
        good = [image for image in decoded if not isinstance(image, InputError)]
        logits = iter((await work.infer(good)).logits if good else ())
    outcomes = [
        _problem(image) if isinstance(image, InputError) else answer(work.predictor.prediction(next(logits), top_k))
        for image in decoded
    ]
    return JSONResponse({"outcomes": outcomes, **answerer(work.predictor)})


def answerer(predictor: Predictor) -> dict[str, Any]:
    """Which bundle answered, and where it runs."""
    manifest, digest = predictor.bundle.manifest, predictor.bundle.digest
    identity = {"name": manifest.name, "version": manifest.version, "digest": digest}
    return {"model": identity, "provider": predictor.session.provider}


def top_k_of(request: Request, upload: Upload | None = None) -> int:
    """How many classes to name: of the query, else of the form, else 5."""
    fields = upload.fields if upload else {}
    text = request.query_params.get("top_k", fields.get("top_k", "5"))
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= _MAX_TOP_K:
        raise BadRequestError(f"top_k is {text[:40]!r}, expected a whole number from 1 to {_MAX_TOP_K}", field="top_k")
    return int(text)


def _spec(work: Work, field: str, kind: str | None, files: int) -> UploadSpec:
    limits = work.predictor.limits
    return UploadSpec(
        field=field, kind=kind, max_bytes=limits.max_bytes, seconds=work.limits.upload_seconds, max_files=files
    )


def _problem(error: InputError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}
