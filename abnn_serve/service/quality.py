"""Online signals of quality: whether served samples still look like the data that a bundle was measured on."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import softmax
from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import AbnnError, one_line
from abnn_serve.runtime.drift import DRIFT_FILE, CpuDriftMeter, DriftMeter
from abnn_serve.service.metrics import Metrics

if TYPE_CHECKING:
    from abnn_serve.service.catalog import ServedModel

log = logging.getLogger("abnn_serve")

MAX_LABELS = 100  # classes that get a series of their own; the others are counted as OTHER
OTHER = "(other)"
_QUEUE = 16  # samples that wait for an idle moment; a newer one takes the place of the oldest
_POLL_SECONDS = 0.05
_LOW_PRIORITY = 19


class QualitySignals:
    """Records the confidence, predicted class and drift of answered samples.

    Args:
        metrics: the worker's metrics.
        drift_sample: share of the samples whose drift is measured, 0 to 1.
        is_idle: whether no session of this worker has work.
    """

    def __init__(self, metrics: Metrics, drift_sample: float, is_idle: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._drift_sample = drift_sample
        self._is_idle = is_idle
        self._waiting: deque[tuple[ServedModel, NDArray[np.uint8]]] = deque(maxlen=_QUEUE)
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, "drift", initializer=_lower_priority)

    def record(self, model: ServedModel, logits: NDArray[np.floating]) -> None:
        """Record the logits of answers, float32 (n, classes)."""
        metrics, name, names = self._metrics, model.name, model.predictor.bundle.labels.names
        probabilities = softmax(logits)
        classes = probabilities.shape[-1]
        logarithms = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        entropy = -(probabilities * logarithms).sum(axis=-1) / (np.log(classes) or 1.0)
        top, best, margin = metrics.top_probability.labels(name), probabilities.argmax(axis=-1), metrics.margin
        seconds = np.partition(probabilities, -2, axis=-1)[:, -2] if classes > 1 else np.zeros(len(probabilities))
        rows = zip(probabilities.max(axis=-1).tolist(), seconds.tolist(), best.tolist(), entropy.tolist(), strict=True)
        for first, second, index, share in rows:
            top.observe(first)
            margin.labels(name).observe(first - second)
            metrics.entropy.labels(name).observe(share)
            metrics.predictions.labels(name, names[index] if index < MAX_LABELS else OTHER).inc()

    def sample(self, model: ServedModel, samples: Sequence[NDArray[np.uint8]]) -> None:
        """Keep a share of the samples, uint8 of the model's input shape, until their drift can be measured."""
        if not self._drift_sample or model.drift is None:
            return
        for sample in samples:
            if random.random() < self._drift_sample:  # noqa: S311  (not a secret)
                self._waiting.append((model, sample))
                self._arrived.set()

    async def measure_drift(self) -> None:
        """Measure the drift of kept samples while the sessions are idle, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if not self._is_idle():
                    await asyncio.sleep(_POLL_SECONDS)
                    continue
                model, sample = self._waiting.popleft()
                if model.drift is None:
                    continue
                try:
                    _, drift = await loop.run_in_executor(self._executor, model.drift.run, sample[None])
                except Exception:  # an engine may raise anything; answers do not depend on this
                    log.exception("measuring drift failed")
                else:
                    self._metrics.drift.labels(model.name).observe(float(drift.mean()))

    def close(self) -> None:
        """Shut down the thread."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def open_drift_meter(bundle: Bundle) -> DriftMeter | None:
    """A drift meter with one thread on the CPU; None, with a warning, if the bundle records no statistics."""
    if DRIFT_FILE not in bundle.manifest.files:
        log.warning("%s has no %s: its drift is not measured", bundle.manifest.name, DRIFT_FILE)
        return None
    try:
        return CpuDriftMeter(bundle)
    except AbnnError as error:
        log.warning("the drift of %s cannot be measured: %s", bundle.manifest.name, one_line(error))
        return None


def _lower_priority() -> None:
    """Give this thread the lowest priority, so that a request that arrives meanwhile gets the core (Linux only)."""
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
