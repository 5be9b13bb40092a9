"""POST /classify_video: one video to its most probable classes, those of its clips, and the frames that were used."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abnn_serve.runtime.answer import video_answer
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.service.errors import request_id
from abnn_serve.service.gate import Gate
from abnn_serve.service.parameters import identity, read_top_k
from abnn_serve.service.upload import read_upload


async def classify_video(request: Request) -> Response:
    """One video, as the multipart file field `video` or as the raw body."""
    predictor: Predictor | None = request.app.state.video_predictor
    request.state.field = "video"
    if predictor is None:
        raise HTTPException(404, "no bundle for videos is served here; name one with ABNN_VIDEO_BUNDLE")
    top_k = read_top_k(request)
    gate: Gate = request.app.state.gate
    with gate.admitted():
        limit = predictor.video_limits.max_bytes
        data = await read_upload(request, "video", limit, request.app.state.upload_seconds)
        video = await gate.decode(predictor.decode_video, data)
        del data
        prediction = await gate.infer(lambda: predictor.predict_video(video, top_k=top_k))
    return JSONResponse(
        {
            **video_answer(prediction, video),
            "model": identity(predictor.bundle),
            "provider": predictor.session.provider,
        },
        headers={"X-Request-ID": request_id(request)},
    )
