"""POST /classify_video: one video to its most probable classes, those of its clips, and the frames that were used."""

from __future__ import annotations

import threading
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.runtime.answer import video_answer
from abnn_serve.service.endpoints.classify import answerer, top_k_of
from abnn_serve.service.endpoints.pipeline import Work
from abnn_serve.service.upload import UploadSpec, read_upload


async def classify_video(request: Request) -> Response:
    """One video, as the multipart file field `video` or as the raw body."""
    request.state.field = "video"
    work = Work(request, request.query_params.get("model"), "video")
    predictor = work.predictor
    spec = UploadSpec(
        field="video", kind="video", max_bytes=predictor.video_limits.max_bytes, seconds=work.limits.upload_seconds
    )
    given_up = threading.Event()
    async with work.received(partial(read_upload, request, spec)) as upload:
        top_k = top_k_of(request, upload)
        decoding = partial(predictor.decode_video, upload.files[0], stopped=given_up.is_set)
        try:
            video = await work.decode(work.gate.large(decoding))
        finally:
            given_up.set()
        answered = await work.infer(list(video.pixels))
    prediction = predictor.video_prediction(answered.logits, top_k)
    return JSONResponse({**video_answer(prediction, video), **answerer(predictor)})
