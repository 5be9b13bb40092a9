"""Shadow: a candidate answers the samples of a served model again, behind the answer, and the two are compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from abnn_serve.runtime.rules.base import RuleAnswer
from abnn_serve.service.idle import IdleWorker
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.quality import label_of
from abnn_serve.service.served_model import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    served: ServedModel
    candidate: ServedModel
    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    seconds: float


class Shadow:
    """Compares answers with those of a candidate, one sample at a time, while the process is idle.

    Args:
        metrics: the worker's metrics.
        share: of the samples that are compared, 0 to 1.
        candidate_for: the shadow of a served model, or None; it may change when bundles are reloaded.
        is_idle: whether no session of this worker has work.
    """

    def __init__(
        self,
        metrics: Metrics,
        share: float,
        candidate_for: Callable[[ServedModel], ServedModel | None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._metrics, self._share, self._candidate_for = metrics, share, candidate_for
        self._worker = IdleWorker("shadow", self._compare, is_idle)
        self.run, self.close = self._worker.run, self._worker.close

    def sample(
        self,
        served: ServedModel,
        samples: Sequence[NDArray[np.uint8]],
        answers: Sequence[RuleAnswer],
        seconds: float,
    ) -> None:
        """Keep a share of answered samples until they can be compared.

        Args:
            served: the model that answered.
            samples: uint8 of the model's input shape.
            answers: one for each sample.
            seconds: session time of one sample.
        """
        for pixels, answer in zip(samples, answers, strict=True):
            if random.random() < self._share and (candidate := self._candidate_for(served)):  # noqa: S311  (not a secret)
                self._worker.put(
                    _Sample(served=served, candidate=candidate, pixels=pixels, logits=answer.logits, seconds=seconds)
                )

    def _compare(self, sample: _Sample) -> Callable[[], None]:
        started = time.perf_counter()
        (answer,) = sample.candidate.predictor.answers(sample.pixels[None])
        return partial(self._record, sample, answer.logits, time.perf_counter() - started)

    def _record(self, sample: _Sample, logits: NDArray[np.float32], seconds: float) -> None:
        metrics, name, names = self._metrics, sample.served.name, sample.served.labels
        before = sample.served.predictor.reader.probabilities(sample.logits)
        after = sample.candidate.predictor.reader.probabilities(logits)
        index, other = int(before.argmax()), int(after.argmax())
        label = label_of(names, index)
        if index == other:
            metrics.shadow_answers.labels(name, label, "both").inc()
        else:
            metrics.shadow_answers.labels(name, label, "served").inc()
            metrics.shadow_answers.labels(name, label_of(names, other), "candidate").inc()
        metrics.shadow_difference.labels(name, label).observe(abs(float(before[index] - after[index])))
        metrics.shadow_seconds.labels(name, label, "served").observe(sample.seconds)
        metrics.shadow_seconds.labels(name, label, "candidate").observe(seconds)
