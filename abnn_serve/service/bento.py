"""The BentoML service: supervision, workers and BentoML's schema around the HTTP application."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from abnn_serve.media.image import quiet_pillow
from abnn_serve.runtime.answer import answer
from abnn_serve.service.app import create_app
from abnn_serve.service.connections import guard_connections
from abnn_serve.service.logs import log_as_json
from abnn_serve.service.middleware import Edge
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import State

quiet_pillow()
log_as_json()
sys.setswitchinterval(0.0005)  # a run or a decode that ends waits this long for an event loop under load, not ten times
limits = ServiceSettings.from_environment()
state = State()
guard_connections(limits, state)
state.app = create_app(state)


@bentoml.service(
    name="abnn_serve",
    workers=limits.workers,
    # BentoML's own limits stand above ours, whose refusals keep the one error schema; its metrics have a label for
    # every path that anybody asks for, and its access log is not JSON.
    traffic={"timeout": 3600, "max_concurrency": 1_000_000},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class AbnnService:
    """Image classification; settings come from ABNN_* environment variables.

    HTTP requests are answered by the application in `Edge`; the methods here give BentoML's clients and other BentoML
    services their names and types.
    """

    def __init__(self) -> None:
        state.load(os.environ)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Begin what runs beside the requests."""
        log_as_json()  # BentoML has put its own handlers in since
        state.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """End it."""
        state.stop()

    @bentoml.api(route="/classify")  # type: ignore[untyped-decorator]
    def classify(self, image: Path, top_k: int = 5) -> dict[str, Any]:
        """The most probable classes of one image file."""
        predictor = state.catalog.get().predictor
        (prediction,) = predictor.predict([predictor.decode(image.read_bytes())], top_k=top_k)
        return answer(prediction)

    @bentoml.api(route="/classify_batch")  # type: ignore[untyped-decorator]
    def classify_batch(self, images: list[Path], top_k: int = 5) -> dict[str, Any]:
        """The most probable classes of several image files."""
        return {"outcomes": [self.classify(image, top_k) for image in images]}

    def __is_ready__(self) -> bool:
        return state.ready and not state.draining


AbnnService.add_asgi_middleware(Edge, state=state)  # type: ignore[attr-defined]
