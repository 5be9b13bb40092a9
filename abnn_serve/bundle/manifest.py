"""Manifest: what `bundle.json` says, parsed strictly."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import BundleIntegrityError, BundleVersionError, ConfigError
from abnn_serve.spec import InputSpec, Precision, model_file

FORMAT_VERSION = 2
MANIFEST = "bundle.json"
REQUIRED = ("model.onnx", "labels.json", "card.json", "golden.npz")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def format_of(spec: InputSpec) -> int:
    """The format that a bundle is written in: 1 for pictures, which older readers know; 2 for videos."""
    return FORMAT_VERSION if spec.sampling else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One target BatchNorm (`channels`) driven by one substitute BatchNorm (`statistics` channels), by module name."""

    target: str
    substitute: str
    channels: int
    statistics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How the exported graph compared with torch, in the session that serves.

    Attributes:
        tolerance: largest difference of any logit that was allowed.
        max_error: largest difference that was found.
        images: how many real images were compared; the argmax agreed on each.
        batch_sizes: at which the images were run.
    """

    tolerance: float
    max_error: float
    images: int
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """sha256 (lower-case hexadecimal) and size of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of `bundle.json`; the sha256 of its bytes is the bundle's identity."""

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

    def __post_init__(self) -> None:
        if self.format_version != format_of(self.input):
            raise ConfigError(
                f"format_version is {self.format_version}, expected {format_of(self.input)} for {self.input.modality}s"
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"bundle name is {self.name!r}, expected at most 64 lower-case letters, digits, '.', '_' or '-'"
            )
        for name in REQUIRED:
            if name not in self.files:
                raise ConfigError(f"files has no {name!r}, expected at least {', '.join(REQUIRED)}")
        for precision in self.precisions:
            if model_file(precision) not in self.files:
                raise ConfigError(f"precisions names {precision!r}, expected a file {model_file(precision)!r} for it")
        for name in self.files:
            if name == MANIFEST or not _NAME.fullmatch(name):
                raise ConfigError(f"files names {name!r}, expected a plain file name inside the bundle")

    def to_bytes(self) -> bytes:
        """The canonical bytes of `bundle.json`; its `checksum` is the sha256 of the same bytes without it."""
        value = to_json(self)
        return canonical({**value, "checksum": _checksum(value)})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse strictly.

        Raises:
            BundleVersionError: a newer format.
            BundleIntegrityError: not JSON, unknown or missing keys, wrong types, or not in canonical form.
        """
        try:
            value: Any = json.loads(data)
            canonical(value)  # numbers that JSON lacks, text that is no Unicode
        except (ValueError, RecursionError) as error:
            raise BundleIntegrityError(f"{where} is not JSON ({error}); get the bundle again") from error
        version = value.get("format_version") if isinstance(value, dict) else None
        if type(version) is int and version > FORMAT_VERSION:
            raise BundleVersionError(
                f"{where} has format_version {version}, this abnn_serve reads up to {FORMAT_VERSION}; "
                "upgrade abnn_serve"
            )
        checksum = value.pop("checksum", None) if isinstance(value, dict) else None
        manifest = from_json(cls, value, where, BundleIntegrityError)
        if checksum != _checksum(value) or manifest.to_bytes() != data:
            raise BundleIntegrityError(
                f"{where} is damaged or was edited: its checksum or form is wrong; get the bundle again"
            )
        return manifest


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
