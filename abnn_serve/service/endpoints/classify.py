"""POST /classify and /classify_batch: images to their most probable classes."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.errors import InputError
from abnn_serve.runtime.prediction_json import prediction_json
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.endpoints.answers import complete
from abnn_serve.service.endpoints.long_json import LongResponse, write_object
from abnn_serve.service.endpoints.pipeline import RequestPipeline
from abnn_serve.service.errors import BadRequestError
from abnn_serve.service.upload import Upload, UploadSpec, read_upload

_MAX_TOP_K = 1000


async def classify(request: Request) -> Response:
    """Classify one image, sent as the multipart file field `image` or as the raw body."""
    pipeline = RequestPipeline(request, request.query_params.get("model"))
    pipeline.read_certify()
    top_k = read_top_k(request)
    spec = _upload_spec(pipeline, "image", media_type="image", max_files=1)
    async with pipeline.upload(partial(read_upload, request, spec)) as upload:
        top_k = read_top_k(request, upload)
        image = await pipeline.decode(pipeline.admission.decode(pipeline.predictor, upload.files[0]))
        (answer,) = await pipeline.answer([image])
    prediction = pipeline.predictor.reader.prediction(answer, top_k)
    (concluded,) = pipeline.conclude([prediction], [image])
    return JSONResponse({**complete(prediction_json(prediction), concluded), **model_identity(pipeline.predictor)})


async def classify_batch(request: Request) -> Response:
    """Classify several images, sent as multipart file fields `images`; one outcome per image, in their order."""
    pipeline = RequestPipeline(request, request.query_params.get("model"))
    pipeline.read_certify()
    spec = _upload_spec(pipeline, "images", media_type=None, max_files=pipeline.limits.max_parts)
    async with pipeline.upload(partial(read_upload, request, spec)) as upload:
        top_k = read_top_k(request, upload)
        decoded = await pipeline.decode(pipeline.admission.decode_all(pipeline.predictor, upload.files))
        images = [image for image in decoded if not isinstance(image, InputError)]
        answers = await pipeline.answer(images) if images else []
        predictor = pipeline.predictor
        values = len(answers) * min(top_k, len(predictor.bundle.labels))
        predictions = await pipeline.run_python(
            values, lambda: [predictor.reader.prediction(a, top_k) for a in answers]
        )
        concluded = pipeline.conclude(predictions, images) if images else []

        def write() -> bytes:
            rows = (complete(prediction_json(p), more) for p, more in zip(predictions, concluded, strict=True))
            outcomes = (_error_json(image) if isinstance(image, InputError) else next(rows) for image in decoded)
            return write_object({"outcomes": outcomes, **model_identity(predictor)})

        content = await pipeline.run_python(values, write)
    return LongResponse(content)


def model_identity(predictor: Predictor) -> dict[str, Any]:
    """Name, version and digest of the bundle, and the provider that runs it."""
    manifest, digest = predictor.bundle.manifest, predictor.bundle.digest
    identity = {"name": manifest.name, "version": manifest.version, "digest": digest}
    return {"model": identity, "provider": predictor.session.provider}


def read_top_k(request: Request, upload: Upload | None = None) -> int:
    """Read `top_k` from the query, else from the form, else 5.

    Raises:
        BadRequestError: not a whole number from 1 to 1000.
    """
    fields = upload.fields if upload else {}
    text = request.query_params.get("top_k", fields.get("top_k", "5"))
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= _MAX_TOP_K:
        raise BadRequestError(f"top_k is {text[:40]!r}, expected a whole number from 1 to {_MAX_TOP_K}", field="top_k")
    return int(text)


def _upload_spec(pipeline: RequestPipeline, field: str, *, media_type: str | None, max_files: int) -> UploadSpec:
    return UploadSpec(
        field=field,
        media_type=media_type,
        max_bytes=pipeline.predictor.limits.max_bytes,
        seconds=pipeline.limits.upload_seconds,
        max_files=max_files,
    )


def _error_json(error: InputError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}
