"""Predictions: what a predictor answers for an image, a clip or a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abnn_serve.runtime.rules.base import Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """A class with its index, its label and its probability in [0, 1]."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The prediction for one sample.

    Attributes:
        top: the most probable classes, the best first.
        logits: float32 (classes,).
        drift: drift of each adaptive layer, float32 (layers,), see `DriftMeter.run`; None if it is not measured.
        certificate: what is proved of the answer; None if that was not requested.
        abstained: the probability is below the bundle's threshold; None for a bundle without one.
        views: of double masking with a certificate, what each mask hides and the class without these pixels.
    """

    top: tuple[ClassScore, ...]
    logits: NDArray[np.float32]
    drift: NDArray[np.float32] | None = None
    certificate: Certificate | None = None
    abstained: bool | None = None
    views: tuple[MaskedView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedView:
    """A mask, in pixels of the model's input, and the class of the sample with the mask over it."""

    label: str
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPrediction:
    """The prediction for one video.

    Attributes:
        overall: the video's prediction; its probabilities are the mean of the clips' probabilities, and its logits the
            logarithm of that mean.
        clips: the clips' predictions, in the order of `VideoClips.pixels`.
    """

    overall: Prediction
    clips: tuple[Prediction, ...]
