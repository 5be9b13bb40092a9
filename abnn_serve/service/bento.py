"""The BentoML service: loads the bundle before it is ready, and carries the HTTP application."""

from __future__ import annotations

import bentoml

from abnn_serve.media.image import quiet_pillow
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.app import create_app

quiet_pillow()
app = create_app()


@bentoml.asgi_app(app, path="/")
# BentoML's own limits stand above those of the application, whose refusals keep the one error schema.
@bentoml.service(name="abnn_serve", traffic={"timeout": 120, "max_concurrency": 1024})
class AbnnService:
    """Classification with a bundle of images, and one of videos; settings come from ABNN_* environment variables."""

    def __init__(self) -> None:
        settings = Settings.from_environment()
        app.state.upload_seconds = settings.upload_seconds
        predictor = Predictor.from_settings(settings)
        if predictor.bundle.manifest.input.modality == "video":
            app.state.video_predictor = predictor
        elif settings.video_bundle:
            app.state.video_predictor = Predictor.from_settings(settings.for_video())
        app.state.predictor = predictor

    def __is_ready__(self) -> bool:
        return app.state.predictor is not None
