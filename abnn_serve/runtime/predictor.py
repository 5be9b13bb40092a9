"""Predictor: the one way from pixels to predictions, for HTTP, the command line, scoring and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.arrays import softmax
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.errors import ConfigError, InputShapeError, UnsupportedFormatError
from abnn_serve.media.image import ImageLimits, fit_image, load_image, open_image, to_pixels
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import VideoClips, decode_video
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


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPrediction:
    """One video's answer.

    Attributes:
        whole: probabilities are the mean over the clips of their softmax; the logits are its logarithm.
        clips: each clip's own, in the order of `VideoClips.pixels`.
    """

    whole: Prediction
    clips: tuple[Prediction, ...]


class Predictor:
    """A verified bundle in a session, with decoding under limits before it.

    >>> predictor = Predictor.open("models/cifar10-abnn-robust")
    >>> image = predictor.decode(Path("cat.png").read_bytes())
    >>> predictor.predict(image[None])[0].top[0].label
    'cat'
    """

    def __init__(
        self,
        session: Session,
        limits: ImageLimits | None = None,
        video_limits: VideoLimits | None = None,
        *,
        drift: bool = False,
    ) -> None:
        self.session = session
        self.limits = limits or ImageLimits()
        self.video_limits = video_limits or VideoLimits()
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
        session = Session(bundle, settings.device, settings.threads, settings.precision)
        return cls(session, settings.limits, settings.video_limits, drift=drift)

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers."""
        return self.session.bundle

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Encoded image bytes to uint8 (H, W, 3) of the model's size; InputError says what is wrong with them."""
        self._require("image")
        return load_image(data, self.bundle.manifest.input, self.limits)

    def decode_if_small(self, data: bytes, pixels: int) -> NDArray[np.uint8] | None:
        """As `decode`; None, with nothing decoded, for a picture that declares more than `pixels`."""
        self._require("image")
        image = open_image(data, self.limits)
        small = image.width * image.height <= pixels
        return fit_image(to_pixels(image), self.bundle.manifest.input) if small else None

    def decode_video(self, data: bytes, *, stopped: Callable[[], bool] = lambda: False) -> VideoClips:
        """Encoded video bytes to the clips that the model asks for; raises as `media.video.decode_video` does."""
        self._require("video")
        return decode_video(data, self.bundle.manifest.input, self.video_limits, stopped=stopped)

    def predict(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], *, top_k: int = 5) -> list[Prediction]:
        """Classify samples, each as if it were alone.

        Args:
            images: uint8 (N, H, W, 3), or a sequence of N arrays (H, W, 3); clips have (T, H, W, 3); N may be 0.
            top_k: classes to name, at least 1; those beyond the number of classes are left out.

        Raises:
            InputShapeError: another dtype or size than the bundle's input.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}, expected at least 1")
        if len(images) == 0:
            return []
        batch = images if isinstance(images, np.ndarray) else _stacked(images)
        return [self.prediction(logits, top_k, drift) for logits, drift in self._measured(batch)]

    def predict_video(self, video: VideoClips, *, top_k: int = 5) -> VideoPrediction:
        """Classify one video: its clips alone, and the mean of their probabilities."""
        return self.video_prediction(self.session.run(video.pixels), top_k)

    def predict_videos(self, pixels: NDArray[np.uint8], counts: Sequence[int], *, top_k: int = 5) -> list[Prediction]:
        """Classify several videos, each by the mean over its clips.

        Args:
            pixels: uint8 (clips of all, T, H, W, 3).
            counts: how many of them are each video's, in their order.
            top_k: classes to name.
        """
        found = iter(self._measured(pixels) if len(pixels) else ())
        answers = []
        for count in counts:
            logits, drift = zip(*islice(found, count), strict=True)
            whole = self.video_prediction(np.stack(logits), top_k).whole
            answers.append(replace(whole, drift=None if drift[0] is None else np.mean(drift, axis=0)))
        return answers

    def _measured(self, batch: NDArray[np.uint8]) -> Iterable[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
        """Logits of each sample, and its drift where the session measures it."""
        if self._meter is None:
            return ((logits, None) for logits in self.session.run(batch))
        return zip(*self._meter.run(batch), strict=True)

    def video_prediction(self, logits: NDArray[np.float32], top_k: int) -> VideoPrediction:
        """The logits of one video's clips, float32 (clips, classes), as an answer that names `top_k` classes."""
        mean = softmax(logits).mean(axis=0)
        whole = np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)
        clips = tuple(self.prediction(row, top_k) for row in logits)
        return VideoPrediction(whole=self.prediction(whole, top_k), clips=clips)

    def _require(self, modality: str) -> None:
        own = self.bundle.manifest.input.modality
        if own != modality:
            raise UnsupportedFormatError(
                f"{self.bundle.manifest.name} classifies {own}s, expected one, not {modality}s"
            )

    def prediction(
        self, logits: NDArray[np.float32], top_k: int, drift: NDArray[np.float32] | None = None
    ) -> Prediction:
        """One sample's logits, float32 (classes,), as an answer that names `top_k` classes."""
        names = self.bundle.labels.names
        probabilities = softmax(logits)
        best = (-probabilities).argsort(kind="stable")[:top_k]
        scores = zip(best.tolist(), probabilities[best].tolist(), strict=True)
        top = [ClassScore(index=index, label=names[index], probability=share) for index, share in scores]
        return Prediction(top=tuple(top), logits=logits, drift=drift)


def _stacked(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    shapes = {(image.shape, image.dtype.name) for image in images}
    if len(shapes) > 1:
        raise InputShapeError(
            f"inputs have {len(shapes)} different shapes or dtypes, expected one: {sorted(shapes)[:2]}"
        )
    return np.asarray(images)
