"""The BentoML service: loads the bundle before it is ready, and carries the HTTP application."""

from __future__ import annotations

import bentoml

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.app import create_app

app = create_app()


@bentoml.asgi_app(app, path="/")
@bentoml.service(name="abnn_serve", traffic={"timeout": 30, "max_concurrency": 64})
class AbnnService:
    """Image classification with one bundle; settings come from ABNN_* environment variables."""

    def __init__(self) -> None:
        app.state.predictor = Predictor.from_settings(Settings.from_environment())

    def __is_ready__(self) -> bool:
        return app.state.predictor is not None
