"""Predictor: the one path from pixels to predictions, for HTTP, the command line, scoring and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.signature import verify_signature
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.errors import ConfigError, InputShapeError, TooCostlyError, UnsupportedFormatError
from abnn_serve.media.headers.header import Header
from abnn_serve.media.image import load_if_plain, load_image
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.media.video import VideoClips, decode_video
from abnn_serve.runtime.answer_reader import AnswerReader
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.predictions import Prediction, VideoPrediction
from abnn_serve.runtime.rules.base import RuleAnswer, answer_all
from abnn_serve.runtime.rules.choose import make_rule
from abnn_serve.runtime.rules.plain import PlainRule
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Device, Settings
from abnn_serve.spec import Precision


class Predictor:
    """Decodes and classifies images or videos with one bundle.

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
        noise_key: bytes = b"",
        decoders: DecoderPool | None = None,
    ) -> None:
        self.session = session
        manifest = session.bundle.manifest
        self.rule = make_rule(manifest.answer, (manifest.input.height, manifest.input.width), noise_key)
        self.reader = AnswerReader(session.bundle, self.rule)
        self.limits = limits or ImageLimits()
        self.video_limits = video_limits or VideoLimits()
        self._decoders = decoders
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
        """Load and verify the bundle at `path`.

        Raises:
            AbnnError: as `load_bundle` and `Session`.
        """
        return cls(Session(load_bundle(path), device, threads, precision))

    @classmethod
    def from_settings(
        cls, settings: Settings, *, drift: bool = False, decoders: DecoderPool | None = None
    ) -> Predictor:
        """Load and verify the bundle in `settings`.

        Args:
            settings: bundle, device and limits.
            drift: predictions include drift.
            decoders: processes that decode images and videos; None decodes in this process.
        """
        bundle = load_bundle(settings.bundle, digest=settings.digest)
        if settings.require_signature:
            verify_signature(bundle, settings.require_signature)
        session = Session(bundle, settings.device, settings.threads, settings.precision, settings.gpu)
        return cls(
            session,
            settings.limits,
            settings.video_limits,
            drift=drift,
            noise_key=settings.noise_key,
            decoders=decoders,
        )

    @property
    def bundle(self) -> Bundle:
        """The session's bundle."""
        return self.session.bundle

    def decode(self, data: bytes, header: Header | None = None) -> NDArray[np.uint8]:
        """Decode an encoded image to the model's input, uint8 (H, W, 3).

        Args:
            data: the encoded image.
            header: what `decode_if_plain` returned for it; None reads it again.

        Raises:
            InputError: as `media.image.load_image`, or the model classifies videos.
            TooCostlyError: decoding takes more memory than there is.
            DecoderError: as `DecoderPool.image`.
        """
        self._require("image")
        spec = self.bundle.manifest.input
        if self._decoders:
            return self._decoders.image(data, spec, self.limits, header)
        with _out_of_memory("image"):
            return load_image(data, spec, self.limits, is_checked=header is not None)

    def decode_if_plain(self, data: bytes, pixels: int) -> NDArray[np.uint8] | Header:
        """As `decode`, in this process, if the header proves that decoding is cheap; else only the header.

        Args:
            data: the encoded image.
            pixels: images of more pixels are not cheap.
        """
        self._require("image")
        return load_if_plain(data, self.bundle.manifest.input, self.limits, pixels)

    def decode_video(self, data: bytes, *, is_cancelled: Callable[[], bool] = lambda: False) -> VideoClips:
        """Decode an encoded video to the model's clips; arguments and errors as `DecoderPool.video`."""
        self._require("video")
        spec = self.bundle.manifest.input
        if self._decoders:
            return self._decoders.video(data, spec, self.video_limits, is_cancelled=is_cancelled)
        with _out_of_memory("video"):
            return decode_video(data, spec, self.video_limits, is_cancelled=is_cancelled)

    def predict(
        self,
        images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        *,
        top_k: int = 5,
        certify: bool = False,
    ) -> list[Prediction]:
        """Classify samples by the bundle's answer rule. A sample's answer does not depend on the other samples.

        Args:
            images: uint8 (N, H, W, 3) or (N, T, H, W, 3), or a sequence of N samples; N may be 0.
            top_k: number of classes in each prediction, at least 1; at most all classes are returned.
            certify: add a certificate to each prediction.

        Raises:
            ConfigError: `top_k` is less than 1, or the bundle has no answer rule that certifies.
            InputShapeError: the dtype or shape is not that of the model's input.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}, expected at least 1")
        if len(images) == 0:
            return []
        batch = images if isinstance(images, np.ndarray) else _stack(images)
        return [self.reader.prediction(answer, top_k, drift) for answer, drift in self._run(batch, certify=certify)]

    def predict_video(self, video: VideoClips, *, top_k: int = 5, certify: bool = False) -> VideoPrediction:
        """Classify each clip of a video, and the video by the mean of its clips' probabilities."""
        return self.reader.video_prediction(self.answers(video.pixels, certify=certify), top_k)

    def predict_videos(self, pixels: NDArray[np.uint8], counts: Sequence[int], *, top_k: int = 5) -> list[Prediction]:
        """Classify several videos, each by the mean of its clips' probabilities.

        Args:
            pixels: clips of all videos, uint8 (clips, T, H, W, 3).
            counts: number of clips of each video, in order.
            top_k: number of classes in each prediction.
        """
        outputs = iter(self._run(pixels) if len(pixels) else ())
        predictions = []
        for count in counts:
            answers, drift = zip(*islice(outputs, count), strict=True)
            overall = self.reader.video_prediction(answers, top_k).overall
            predictions.append(replace(overall, drift=None if drift[0] is None else np.mean(drift, axis=0)))
        return predictions

    def answers(self, batch: NDArray[np.uint8], *, certify: bool = False) -> list[RuleAnswer]:
        """The rule's answers to samples, uint8 (N, [T,] H, W, 3), N >= 1."""
        if certify or not isinstance(self.rule, PlainRule):
            return answer_all(self.rule, batch, self.session.run, certify=certify)
        return [RuleAnswer(logits=logits, passes=1) for logits in self.session.run(batch)]

    def _run(
        self, batch: NDArray[np.uint8], *, certify: bool = False
    ) -> Iterable[tuple[RuleAnswer, NDArray[np.float32] | None]]:
        """Pairs of answer and drift for each sample; drift is None if it is not measured."""
        if self._meter is None:
            return ((answer, None) for answer in self.answers(batch, certify=certify))
        logits, drift = self._meter.run(batch)
        if certify or not isinstance(self.rule, PlainRule):
            return zip(self.answers(batch, certify=certify), drift, strict=True)
        return zip((RuleAnswer(logits=row, passes=1) for row in logits), drift, strict=True)

    def _require(self, modality: str) -> None:
        manifest = self.bundle.manifest
        if manifest.input.modality != modality:
            raise UnsupportedFormatError(
                f"{manifest.name} classifies {manifest.input.modality}s, not {modality}s; choose another model"
            )


@contextmanager
def _out_of_memory(what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise TooCostlyError(
            f"decoding the {what} takes more memory than this process can get; shrink it, or save it again"
        ) from None


def _stack(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    shapes = {(image.shape, image.dtype.name) for image in images}
    if len(shapes) > 1:
        raise InputShapeError(
            f"samples have {len(shapes)} different shapes or dtypes, expected one: {sorted(shapes)[:2]}"
        )
    return np.asarray(images)
