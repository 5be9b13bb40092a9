"""What a rule's answers say: classes with their labels and probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import softmax
from abnn_serve.bundle.store import Bundle
from abnn_serve.runtime.predictions import ClassScore, MaskedView, Prediction, VideoPrediction
from abnn_serve.runtime.rules.base import Rule, RuleAnswer
from abnn_serve.runtime.rules.choose import of_video
from abnn_serve.runtime.rules.masks import MaskRule


class AnswerReader:
    """Turns the answers of a bundle's rule into predictions."""

    def __init__(self, bundle: Bundle, rule: Rule) -> None:
        self._names = bundle.labels.names
        self._calibration = bundle.manifest.calibration
        self._rule = rule

    def prediction(self, answer: RuleAnswer, top_k: int, drift: NDArray[np.float32] | None = None) -> Prediction:
        """The prediction for one sample from the rule's answer."""
        return self._prediction(answer, self.probabilities(answer.logits), top_k, drift)

    def video_prediction(self, answers: Sequence[RuleAnswer], top_k: int) -> VideoPrediction:
        """The prediction for one video from the answers to its clips."""
        mean = self.probabilities(np.stack([answer.logits for answer in answers])).mean(axis=0)
        log_mean = np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)
        overall = RuleAnswer(
            logits=log_mean,
            passes=sum(answer.passes for answer in answers),
            certificate=of_video(answers, int(log_mean.argmax())),
        )
        clips = tuple(self.prediction(answer, top_k) for answer in answers)
        return VideoPrediction(overall=self._prediction(overall, softmax(log_mean), top_k), clips=clips)

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities of logits (..., classes) of single samples, at the bundle's temperature."""
        calibration = self._calibration
        return softmax(logits / np.float32(calibration.temperature) if calibration else logits)

    def _prediction(
        self,
        answer: RuleAnswer,
        probabilities: NDArray[np.float64],
        top_k: int,
        drift: NDArray[np.float32] | None = None,
    ) -> Prediction:
        threshold = self._calibration.abstain_below if self._calibration else None
        best = (-probabilities).argsort(kind="stable")[:top_k]
        scores = zip(best.tolist(), probabilities[best].tolist(), strict=True)
        top = [
            ClassScore(index=index, label=self._names[index], probability=probability) for index, probability in scores
        ]
        return Prediction(
            top=tuple(top),
            logits=answer.logits,
            drift=drift,
            certificate=answer.certificate,
            abstained=None if threshold is None else top[0].probability < threshold,
            views=self._views(answer) if answer.certificate else (),
        )

    def _views(self, answer: RuleAnswer) -> tuple[MaskedView, ...]:
        if not isinstance(self._rule, MaskRule) or not answer.votes:
            return ()
        return tuple(
            MaskedView(label=self._names[vote], top=top, left=left, height=height, width=width)
            for vote, (top, left, height, width) in zip(answer.votes, self._rule.boxes, strict=True)
        )
