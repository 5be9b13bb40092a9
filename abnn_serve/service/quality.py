"""Online signals of quality: whether served samples still look like the data that a bundle was measured on."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import AbnnError, one_line
from abnn_serve.runtime.drift import DRIFT_FILE, CpuDriftMeter, DriftMeter
from abnn_serve.service.candidates import Arm
from abnn_serve.service.idle import IdleWorker
from abnn_serve.service.metrics import Metrics

if TYPE_CHECKING:
    from abnn_serve.service.served_model import ServedModel

log = logging.getLogger("abnn_serve")

MAX_LABELS = 100  # classes that get a series of their own; the others are counted as OTHER
OTHER = "(other)"


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
        self._worker = IdleWorker("drift", self._measure, is_idle)
        self.measure_drift, self.close = self._worker.run, self._worker.close

    def record(
        self, model: ServedModel, probabilities: NDArray[np.float64], arm: tuple[str, Arm] | None = None
    ) -> None:
        """Record the probabilities of answers, (n, classes), and the arm of a model with a canary."""
        metrics, name, names = self._metrics, model.name, model.predictor.bundle.labels.names
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
            label = label_of(names, index)
            metrics.predictions.labels(name, label).inc()
            if arm:
                metrics.canary_answers.labels(*arm, label).inc()
                metrics.canary_probability.labels(*arm).observe(first)

    def sample(self, model: ServedModel, samples: Sequence[NDArray[np.uint8]]) -> None:
        """Keep a share of the samples, uint8 of the model's input shape, until their drift can be measured."""
        if not self._drift_sample or model.drift is None:
            return
        for sample in samples:
            if random.random() < self._drift_sample:  # noqa: S311  (not a secret)
                self._worker.put((model, sample))

    def _measure(self, item: tuple[ServedModel, NDArray[np.uint8]]) -> Callable[[], None] | None:
        model, sample = item
        if model.drift is None:
            return None
        _, drift = model.drift.run(sample[None])
        return partial(self._metrics.drift.labels(model.name).observe, float(drift.mean()))


def label_of(names: Sequence[str], index: int) -> str:
    """The label of a class in metrics: its name, or OTHER beyond the first MAX_LABELS."""
    return names[index] if index < MAX_LABELS else OTHER


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
