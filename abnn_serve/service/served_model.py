"""One version of one bundle in service: loaded, verified, warmed up, with a queue of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import DeviceLostError
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.batcher import RUN_SECONDS, Batcher
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.quality import open_drift_meter
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.sources import check_noise_key
from abnn_serve.spec import InputSpec, Modality

log = logging.getLogger("abnn_serve")
_THROUGHPUT_SLACK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One version of one bundle, ready for requests."""

    predictor: Predictor
    batcher: Batcher
    drift: DriftMeter | None = None

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.predictor.bundle.manifest.name

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.predictor.bundle.manifest.version

    @property
    def digest(self) -> str:
        """Digest of the bundle."""
        return self.predictor.bundle.digest

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.predictor.bundle.labels.names

    @property
    def spec(self) -> InputSpec:
        """Size, fit and sampling of the model's input."""
        return self.predictor.bundle.manifest.input

    @property
    def modality(self) -> Modality:
        """`image` or `video`."""
        return self.spec.modality

    def can_replace(self, other: ServedModel) -> bool:
        """Whether both models have the same input and labels."""
        return self.spec == other.spec and self.labels == other.labels


class ModelLoader:
    """Loads bundles for one worker.

    Args:
        service: limits of the queues.
        metrics: the worker's metrics.
        decoders: processes that decode images and videos; None decodes in this process.
        on_device_lost: called, from the session's thread, when a run fails because its GPU no longer works.
    """

    def __init__(
        self,
        service: ServiceSettings,
        metrics: Metrics,
        decoders: DecoderPool | None = None,
        on_device_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._service, self._metrics, self._decoders = service, metrics, decoders
        self._on_device_lost = on_device_lost
        self._executor = ThreadPoolExecutor(1, "session")

    def load(self, settings: Settings) -> ServedModel:
        """Load, verify and warm up the bundle in `settings`.

        Raises:
            AbnnError: the bundle cannot be loaded.
        """
        predictor = Predictor.from_settings(settings, decoders=self._decoders)
        check_noise_key(settings, predictor)
        run_seconds = warm_up(predictor.session)
        name = predictor.bundle.manifest.name

        def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            try:
                return predictor.session.run(images)
            except DeviceLostError:
                self._on_device_lost()
                raise

        def on_batch(size: int, seconds: float) -> None:
            self._metrics.batch.labels(name).observe(size)
            self._metrics.runs.labels(name).observe(seconds)

        timings = ", ".join(f"{size}: {1000 * seconds:.1f} ms" for size, seconds in run_seconds.items())
        log.info("%s: warmed up; run time by batch size: %s", name, timings)
        batcher = Batcher(
            run,
            self._executor,
            max_batch=self._service.max_batch or best_batch_size(run_seconds),
            max_queue=self._service.max_queue,
            seconds=min(seconds / size for size, seconds in run_seconds.items()),
            on_batch=on_batch,
        )
        drift = open_drift_meter(predictor.bundle) if self._service.drift_sample else None
        return ServedModel(predictor=predictor, batcher=batcher, drift=drift)


def warm_up(session: Session) -> dict[int, float]:
    """Run batch sizes 1, 2, 4, ... until a run takes RUN_SECONDS; return the best of three run times for each, in s."""
    run_seconds: dict[int, float] = {}
    size = 1
    while size <= session.max_batch and (not run_seconds or max(run_seconds.values()) <= RUN_SECONDS):
        zeros = np.zeros((size, *session.bundle.manifest.input.shape), np.uint8)
        run_seconds[size] = min(_time_run(session, zeros) for _ in range(3))
        size *= 2
    return run_seconds


def best_batch_size(run_seconds: dict[int, float]) -> int:
    """The smallest batch within 5% of the best throughput: larger ones add latency only."""
    best = min(seconds / size for size, seconds in run_seconds.items())
    return min(size for size, seconds in run_seconds.items() if seconds / size <= best * (1 + _THROUGHPUT_SLACK))


def _time_run(session: Session, images: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    session.run(images)
    return time.perf_counter() - started
