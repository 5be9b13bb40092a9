"""POST /classify_video: a video to its most probable classes, and those of each of its clips."""

from __future__ import annotations

import threading
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from abnn_serve.runtime.prediction_json import video_prediction_json
from abnn_serve.service.endpoints.answers import complete
from abnn_serve.service.endpoints.classify import model_identity, read_top_k
from abnn_serve.service.endpoints.long_json import LongResponse, write_object
from abnn_serve.service.endpoints.pipeline import RequestPipeline
from abnn_serve.service.upload import UploadSpec, read_upload


async def classify_video(request: Request) -> Response:
    """Classify one video, sent as the multipart file field `video` or as the raw body."""
    request.state.field = "video"
    pipeline = RequestPipeline(request, request.query_params.get("model"), "video")
    pipeline.read_certify()
    predictor = pipeline.predictor
    spec = UploadSpec(
        field="video",
        media_type="video",
        max_bytes=predictor.video_limits.max_bytes,
        seconds=pipeline.limits.upload_seconds,
    )
    cancelled = threading.Event()
    async with pipeline.upload(partial(read_upload, request, spec)) as upload:
        top_k = read_top_k(request, upload)
        decode = partial(predictor.decode_video, upload.files[0], is_cancelled=cancelled.is_set)
        try:
            video = await pipeline.decode(pipeline.admission.run_large(decode))
        finally:
            cancelled.set()
        answers = await pipeline.answer(list(video.pixels), one_input=True)
        values = (1 + len(answers)) * min(top_k, len(predictor.bundle.labels))
        prediction = await pipeline.run_python(values, partial(predictor.reader.video_prediction, answers, top_k))
        (concluded,) = pipeline.conclude([prediction.overall], list(video.pixels))

        def write() -> bytes:
            row = complete(video_prediction_json(prediction, video), concluded)
            return write_object({**row, **model_identity(predictor)})

        content = await pipeline.run_python(values, write)
    return LongResponse(content)
