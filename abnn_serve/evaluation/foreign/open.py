"""An ONNX file as the subject of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from abnn_serve.card import Accuracy, RobustnessCard
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.foreign.classifier import OnnxClassifier, open_classifier
from abnn_serve.evaluation.foreign.preprocess import Preprocess, read_preprocess
from abnn_serve.evaluation.foreign.to_torch import Differentiable, to_torch
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.spec import InputSpec, Labels

COMPARED = 16  # images on which torch and ONNX Runtime are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """An ONNX file with what the user said about it.

    Attributes:
        classifier: the file in ONNX Runtime.
        labels: class names; None if the user gave none, which are then those of the data.
        gradients: another ONNX file that supplies the gradients, such as the fp32 original of an int8 file.
        reopen: opens the file again in another process; can be pickled.
    """

    classifier: OnnxClassifier
    reopen: Callable[[], ForeignModel]
    labels: Labels | None = None
    gradients: OnnxClassifier | None = None

    @property
    def input(self) -> InputSpec:
        """What `load_data` resizes images to."""
        signature = self.classifier.signature
        return InputSpec(height=signature.height, width=signature.width)

    def labels_for(self, data: ImageData) -> Labels:
        """The class names; ConfigError if there are more or fewer than outputs."""
        labels, classes = self.labels or data.classes, self.classifier.signature.classes
        if len(labels) != classes:
            source = "--labels" if self.labels else data.source
            raise ConfigError(
                f"{source} names {len(labels)} classes, but {self.classifier.path} has {classes} outputs; give "
                f"--labels with {classes} names, one a line, in the order of the outputs"
            )
        return labels

    def check_accuracy(self, data: ImageData) -> None:
        """ConfigError if the accuracy on `data` is that of chance, or scores are not finite: a likely wrong input."""
        logits = self.classifier.logits(data.images)
        if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
            raise ConfigError(
                f"{self.classifier.path} gives scores that are not finite to {broken} of {len(data)} clean images: is "
                "--preprocess right?"
            )
        clean = Accuracy.of(logits.argmax(axis=1) == data.labels)
        check_not_chance(clean, self.classifier.signature.classes)

    def subject(
        self, data: ImageData, *, gradients: bool, twin: PixelNetwork | None, draws: int = 1
    ) -> tuple[Subject, tuple[str, ...]]:
        """The subject, and sentences for its card.

        Args:
            data: images on which torch and ONNX Runtime are compared.
            gradients: convert the file to torch, for white-box attacks.
            twin: an undefended network.
            draws: see `Subject`.
        """
        limits = [f"Everything is judged on {self.classifier.path.name} in ONNX Runtime."]
        converted = None
        if gradients:
            source = self.gradients or self.classifier
            converted = to_torch(source, data.spread(COMPARED).images)
            limits.append(_how_converted(converted, source))
        subject = Subject(
            network=converted.network if converted else None,
            twin=twin,
            served=self.classifier.logits,
            served_digest=self.classifier.digest,
            served_judges=True,
            straight_through=converted is not None and converted.is_straight_through,
            draws=draws,
        )
        return subject, tuple(limits)

    def card(self, data: ImageData) -> RobustnessCard:
        """The card to fill in."""
        return RobustnessCard(
            model_sha256=self.classifier.file_sha256, data=data.name, data_digest=data.digest, clean=None, training=None
        )


def open_foreign(
    path: Path,
    *,
    labels: Path | None = None,
    preprocess: str | None = None,
    output: str | None = None,
    size: tuple[int, int] | None = None,
    gradients: Path | None = None,
) -> ForeignModel:
    """Open an ONNX classifier.

    Args:
        path: the ONNX file.
        labels: class names, one a line, or a JSON list; None if the data names them.
        preprocess: see `read_preprocess`; None for a model of uint8 pixels, or of pixels in [0, 1].
        output: name of the output, where there are several.
        size: height and width, where the graph leaves them open.
        gradients: another ONNX file with the same input that supplies the gradients.

    Raises:
        ConfigError: as `open_classifier`, or the labels cannot be read.
    """
    settings = read_preprocess(preprocess) if preprocess else Preprocess()
    other = open_classifier(gradients, settings, size=size) if gradients else None
    return ForeignModel(
        reopen=partial(
            open_foreign, path, labels=labels, preprocess=preprocess, output=output, size=size, gradients=gradients
        ),
        classifier=open_classifier(path, settings, output=output, size=size),
        labels=read_labels(labels) if labels else None,
        gradients=other,
    )


def check_not_chance(clean: Accuracy, classes: int) -> None:
    """ConfigError if accuracy on clean images is that of chance."""
    if clean.interval[0] <= 1 / classes:
        raise ConfigError(
            f"{clean.value:.0%} right on {clean.n} clean images, as by chance: is --preprocess right, and are the "
            "labels in the order of the outputs?"
        )


def read_labels(path: Path) -> Labels:
    """Class names from a text file, one a line, or from a JSON list; ConfigError if unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text) if path.suffix == ".json" else lines
    except (OSError, ValueError) as error:
        raise ConfigError(f"--labels {path} is not readable ({error}); expected one class name a line") from None
    if not isinstance(names, list):
        raise ConfigError(f"--labels {path} holds a JSON {type(names).__name__}, expected a list of class names")
    return Labels(names=tuple(names))


def _how_converted(converted: Differentiable, source: OnnxClassifier) -> str:
    if converted.is_straight_through:
        return (
            f"Gradients are straight-through: {source.path.name} in torch gives the same class to "
            f"{converted.same_class:.0%} of {converted.images} images, and its rounding is differentiated as the "
            "identity. The true gradient is zero almost everywhere."
        )
    return (
        f"Gradients are those of {source.path.name} in torch, whose outputs differ from ONNX Runtime's by at most "
        f"{converted.error:.1e} on {converted.images} images."
    )
