"""The manifest, `bundle.json`: strict parsing and canonical bytes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from abnn_serve.answer import Answer
from abnn_serve.codec import OMITTED_IF_NONE, canonical, from_json, to_json
from abnn_serve.errors import BundleIntegrityError, BundleVersionError, ConfigError
from abnn_serve.spec import InputSpec, Precision, model_file

FORMAT_VERSION = 4
MANIFEST = "bundle.json"
SIGNATURE = "signature.sigstore"  # made after the manifest, so not listed in it
REQUIRED = ("model.onnx", "labels.json", "card.json", "golden.npz")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def format_version_of(spec: InputSpec, answer: Answer | None = None, calibration: Calibration | None = None) -> int:
    """Format version of a bundle: the lowest that describes it, so that older versions can read it."""
    if calibration:
        return 4
    if answer:
        return 3
    return 2 if spec.sampling else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A target BatchNorm, and the substitute BatchNorm whose statistics drive it.

    Attributes:
        target, substitute: module names of the two layers.
        channels: channels of the target layer.
        statistics: channels of the substitute layer.
    """

    target: str
    substitute: str
    channels: int
    statistics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Comparison of the exported graph with torch.

    Attributes:
        tolerance: largest allowed absolute difference of a logit.
        max_error: largest measured absolute difference of a logit.
        images: number of images compared; the predicted class was the same for each.
        batch_sizes: batch sizes at which the images were run.
    """

    tolerance: float
    max_error: float
    images: int
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How logits become probabilities, and when the bundle abstains.

    Attributes:
        temperature: divides the logits before the softmax, 0.01 to 100.
        abstain_below: probability of the predicted class, 0 to 1, below which it abstains; None never abstains.
    """

    temperature: float
    abstain_below: float | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 100:
            raise ConfigError(f"temperature is {self.temperature}, expected 0.01 to 100")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise ConfigError(f"abstain_below is {self.abstain_below}, expected a probability from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """SHA-256 (lower-case hexadecimal) and size in bytes of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of `bundle.json`; the SHA-256 of its bytes is the bundle's digest.

    Attributes:
        answer: the answer rule; None answers with the logits of one pass.
        calibration: None takes the softmax of the logits as they are, and never abstains.
    """

    name: str
    version: str
    input: InputSpec
    pairs: tuple[Pair, ...]
    opset: int
    precisions: tuple[Precision, ...]
    toolchain: dict[str, str]
    parity: Parity
    files: dict[str, FileEntry]
    stats_scope: Literal["sample"] = "sample"
    format_version: int = 1
    answer: Answer | None = field(default=None, metadata=OMITTED_IF_NONE)
    calibration: Calibration | None = field(default=None, metadata=OMITTED_IF_NONE)

    def __post_init__(self) -> None:
        self._check_answer()
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"bundle name is {self.name!r}, expected at most 64 lower-case letters, digits, '.', '_' or '-'"
            )
        for name in REQUIRED:
            if name not in self.files:
                raise ConfigError(f"files has no {name!r}, expected at least {', '.join(REQUIRED)}")
        for precision in self.precisions:
            if model_file(precision) not in self.files:
                raise ConfigError(f"precisions has {precision!r}, expected {model_file(precision)!r} in files")
        for name in self.files:
            if name in {MANIFEST, SIGNATURE} or not _NAME.fullmatch(name):
                raise ConfigError(f"files has {name!r}, expected a plain file name inside the bundle")

    def _check_answer(self) -> None:
        if self.answer and self.calibration:
            raise ConfigError("calibration is for bundles without an answer rule, and this one has both")
        if self.format_version != (expected := format_version_of(self.input, self.answer, self.calibration)):
            content = "an answer rule" if self.answer else f"{self.input.modality}s"
            content = "a calibration" if self.calibration else content
            raise ConfigError(f"format_version is {self.format_version}, expected {expected} for {content}")
        if self.answer:
            self.answer.check_size(self.input.height, self.input.width)
            if self.precisions != ("fp32",):
                raise ConfigError(
                    f"precisions has {', '.join(self.precisions)}, expected only fp32 in a bundle with an answer rule"
                )

    @property
    def pixel_type(self) -> str:
        """Dtype of the graph's input: uint8, or float32 in the same units for noise."""
        return "float32" if self.answer and self.answer.noise else "uint8"

    def to_bytes(self) -> bytes:
        """Canonical bytes of `bundle.json`. Its `checksum` is the SHA-256 of the canonical bytes without `checksum`."""
        value = to_json(self)
        return canonical({**value, "checksum": _checksum(value)})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse strictly.

        Raises:
            BundleVersionError: the format version is newer.
            BundleIntegrityError: not JSON, unknown or missing keys, wrong types, wrong checksum, or not canonical.
        """
        try:
            value: Any = json.loads(data)
            canonical(value)  # fails for NaN, infinity and lone surrogates
        except (ValueError, RecursionError) as error:
            raise BundleIntegrityError(f"{where} is not JSON ({error}); download or export the bundle again") from error
        version = value.get("format_version") if isinstance(value, dict) else None
        if type(version) is int and version > FORMAT_VERSION:
            raise BundleVersionError(
                f"{where} has format_version {version}, but this abnn_serve reads up to {FORMAT_VERSION}; "
                "upgrade abnn_serve"
            )
        checksum = value.pop("checksum", None) if isinstance(value, dict) else None
        manifest = from_json(cls, value, where, BundleIntegrityError)
        if checksum != _checksum(value) or manifest.to_bytes() != data:
            raise BundleIntegrityError(
                f"{where} is damaged or was edited: its checksum is wrong or it is not canonical; download or export "
                "the bundle again"
            )
        return manifest


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
