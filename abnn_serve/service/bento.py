"""The BentoML service: BentoML supervises the workers and publishes a schema; the HTTP application answers."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from abnn_serve.media.image import quiet_pillow
from abnn_serve.runtime.prediction_json import prediction_json
from abnn_serve.service.app import create_app
from abnn_serve.service.connections import guard_connections
from abnn_serve.service.logs import log_as_json
from abnn_serve.service.middleware import RequestMiddleware
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.supervisor import guard_supervisor
from abnn_serve.service.worker import WorkerState

quiet_pillow()
log_as_json()
sys.setswitchinterval(0.0005)  # the default of 5 ms delays the event loop whenever a decode or session run ends
limits = ServiceSettings.from_environment()
state = WorkerState()
os.environ["FORWARDED_ALLOW_IPS"] = ",".join(limits.trusted_proxies)  # uvicorn trusts loopback addresses by default
guard_connections(limits, state)
guard_supervisor(limits)
state.app = create_app(state)


@bentoml.service(
    name="abnn_serve",
    workers=limits.workers,
    # Our own limits apply before BentoML's, whose errors have another schema. Its metrics have one label per requested
    # path, and its access log is not JSON.
    traffic={"timeout": 3600, "max_concurrency": 1_000_000},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class AbnnService:
    """Image classification, configured by ABNN_* environment variables.

    `RequestMiddleware` answers HTTP requests; the methods here only give BentoML clients their names and types.
    """

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # or a full collection would visit 100,000 objects of libraries, in which time nothing else runs
        state.load(os.environ)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start the background tasks."""
        log_as_json()  # BentoML has installed its own handlers since the first call
        state.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Stop the background tasks."""
        state.stop()

    @bentoml.api(route="/classify")  # type: ignore[untyped-decorator]
    def classify(self, image: Path, top_k: int = 5) -> dict[str, Any]:
        """Classify one image file."""
        predictor = state.catalog.get().predictor
        (prediction,) = predictor.predict([predictor.decode(image.read_bytes())], top_k=top_k)
        return prediction_json(prediction)

    @bentoml.api(route="/classify_batch")  # type: ignore[untyped-decorator]
    def classify_batch(self, images: list[Path], top_k: int = 5) -> dict[str, Any]:
        """Classify several image files."""
        return {"outcomes": [self.classify(image, top_k) for image in images]}

    def __is_ready__(self) -> bool:
        return state.can_answer


AbnnService.add_asgi_middleware(RequestMiddleware, state=state)  # type: ignore[attr-defined]
