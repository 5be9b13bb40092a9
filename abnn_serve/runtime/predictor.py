"""Predictor: the one way from pixels to predictions, for HTTP, the command line, scoring and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.errors import ConfigError, InputShapeError
from abnn_serve.media.image import ImageLimits, load_image
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Device, Settings
from abnn_serve.spec import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: its index among the labels, its name, and its probability in [0, 1]."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One sample's answer.

    Attributes:
        top: the most probable classes, first the best.
        logits: all of them, float32 (classes,).
        drift: distance of each adaptive layer's statistics from clean data, float32 (layers,); None where the session
            does not measure it.
    """

    top: tuple[ClassScore, ...]
    logits: NDArray[np.float32]
    drift: NDArray[np.float32] | None = None


class Predictor:
    """A verified bundle in a session, with decoding under limits before it.

    >>> predictor = Predictor.open("models/cifar10-abnn")
    >>> image = predictor.decode(Path("cat.png").read_bytes())
    >>> predictor.predict(image[None])[0].top[0].label
    'cat'
    """

    def __init__(self, session: Session, limits: ImageLimits | None = None, *, drift: bool = False) -> None:
        self.session = session
        self.limits = limits or ImageLimits()
        self._meter = DriftMeter(session) if drift else None

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision = "fp32",
    ) -> Predictor:
        """Load, verify and warm up the bundle at `path`."""
        return cls(Session(load_bundle(path), device, threads, precision))

    @classmethod
    def from_settings(cls, settings: Settings, *, drift: bool = False) -> Predictor:
        """Load, verify and warm up the bundle that `settings` name; `drift` measures that of every sample too."""
        bundle = load_bundle(settings.bundle, digest=settings.digest)
        return cls(Session(bundle, settings.device, settings.threads, settings.precision), settings.limits, drift=drift)

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers."""
        return self.session.bundle

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Encoded image bytes to uint8 (H, W, 3) of the model's size; InputError says what is wrong with them."""
        return load_image(data, self.bundle.manifest.input, self.limits)

    def predict(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], *, top_k: int = 5) -> list[Prediction]:
        """Classify samples, each as if it were alone.

        Args:
            images: uint8 (N, H, W, 3), or a sequence of N arrays (H, W, 3); N may be 0.
            top_k: classes to name, at least 1; those beyond the number of classes are left out.

        Raises:
            InputShapeError: another dtype or size than the bundle's input.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}, expected at least 1")
        if len(images) == 0:
            return []
        shapes = {(image.shape, image.dtype.name) for image in images}
        if len(shapes) > 1:
            raise InputShapeError(
                f"inputs have {len(shapes)} different shapes or dtypes, expected one: {sorted(shapes)[:2]}"
            )
        batch = np.asarray(images)
        if self._meter is None:
            return [self._answer(logits, top_k) for logits in self.session.run(batch)]
        return [self._answer(logits, top_k, drift) for logits, drift in zip(*self._meter.run(batch), strict=True)]

    def _answer(self, logits: NDArray[np.float32], top_k: int, drift: NDArray[np.float32] | None = None) -> Prediction:
        names = self.bundle.labels.names
        exact = logits.astype(np.float64)
        weights = np.exp(exact - exact.max())
        probabilities = weights / weights.sum()
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        top = tuple(ClassScore(index=int(i), label=names[i], probability=float(probabilities[i])) for i in best)
        return Prediction(top=top, logits=logits, drift=drift)
