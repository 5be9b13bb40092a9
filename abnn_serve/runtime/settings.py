"""Settings for inference from ABNN_* environment variables; docs/configuration.md lists them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from abnn_serve.errors import ConfigError
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.spec import Precision

Device = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
_NOISE_KEY_BYTES = 16
DEFAULT_BUNDLE = "cifar10-abnn-robust"
DEFAULT_VIDEO_BUNDLE = "motions-abnn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bundles, device and input limits.

    Attributes:
        bundle: directory of the bundle.
        digest: required digest of the bundle; None accepts any.
        require_signature: PEM files of public keys, one of which must have signed the bundle; empty accepts any bundle.
        device: `auto` uses CUDA if available, else the CPU; with any other value, an unavailable device is an error.
        precision: precision of the graph; the bundle must have it.
        gpu: number of the GPU, from 0 in CUDA's order; None takes the first, or in a service one for each worker.
        threads: threads per inference, at least 1; None takes all cores that this process may use.
        limits: limits for one image.
        video_bundle: directory of the bundle that classifies videos; None for none.
        video_limits: limits for one video.
        noise_key: secret from which the noise of answers is drawn, see `runtime.rules.noise`; empty for a public one.
    """

    bundle: Path
    digest: str | None = None
    require_signature: tuple[Path, ...] = ()
    device: Device = "auto"
    precision: Precision = "fp32"
    gpu: int | None = None
    threads: int | None = None
    limits: ImageLimits = field(default_factory=ImageLimits)
    video_bundle: Path | None = None
    video_limits: VideoLimits = field(default_factory=VideoLimits)
    noise_key: bytes = field(default=b"", repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables in docs/configuration.md.

        Raises:
            ConfigError: a variable has an invalid value.
        """
        device = environ.get("ABNN_DEVICE", "auto")
        if device not in get_args(Device):
            raise ConfigError(f"ABNN_DEVICE is {device!r}, expected one of {', '.join(get_args(Device))}")
        precision = environ.get("ABNN_PRECISION", "fp32")
        if precision not in get_args(Precision):
            raise ConfigError(f"ABNN_PRECISION is {precision!r}, expected one of {', '.join(get_args(Precision))}")
        limits, video = ImageLimits(), VideoLimits()
        return cls(
            bundle=Path(environ["ABNN_BUNDLE"]) if environ.get("ABNN_BUNDLE") else default_bundle(),
            digest=environ.get("ABNN_BUNDLE_DIGEST") or None,
            require_signature=_key_files(environ),
            device=device,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            gpu=read_count(environ, "ABNN_GPU", 0),
            threads=read_count(environ, "ABNN_THREADS"),
            limits=ImageLimits(
                max_bytes=read_count(environ, "ABNN_MAX_UPLOAD_BYTES") or limits.max_bytes,
                max_pixels=read_count(environ, "ABNN_MAX_PIXELS") or limits.max_pixels,
                decode_seconds=read_count(environ, "ABNN_DECODE_SECONDS") or limits.decode_seconds,
            ),
            video_bundle=_video_bundle(environ),
            video_limits=VideoLimits(
                max_bytes=read_count(environ, "ABNN_MAX_VIDEO_BYTES") or video.max_bytes,
                max_pixels=read_count(environ, "ABNN_MAX_VIDEO_PIXELS") or video.max_pixels,
                max_frames=read_count(environ, "ABNN_MAX_FRAMES") or video.max_frames,
                max_seconds=read_count(environ, "ABNN_MAX_VIDEO_SECONDS") or video.max_seconds,
                decode_seconds=read_count(environ, "ABNN_DECODE_SECONDS") or video.decode_seconds,
            ),
            noise_key=_noise_key(environ),
        )

    def for_video(self) -> Settings:
        """These settings for the video bundle, in fp32 and without a required digest.

        Raises:
            ConfigError: there is no video bundle.
        """
        if self.video_bundle is None:
            raise ConfigError("no video bundle is configured; set ABNN_VIDEO_BUNDLE, or use --bundle")
        return replace(self, bundle=self.video_bundle, digest=None, precision="fp32")


def default_bundle(name: str = DEFAULT_BUNDLE) -> Path:
    """Directory of a bundle that ships with abnn_serve: beside the package in a checkout or bento, else inside it."""
    package = Path(__file__).parents[1]
    checkout_bundle, installed_bundle = package.parent / "models" / name, package / "models" / name
    return checkout_bundle if checkout_bundle.is_dir() else installed_bundle


def _video_bundle(environ: Mapping[str, str]) -> Path | None:
    if path := environ.get("ABNN_VIDEO_BUNDLE"):
        return Path(path)
    return None if environ.get("ABNN_BUNDLE") else default_bundle(DEFAULT_VIDEO_BUNDLE)


def _key_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    text = environ.get("ABNN_REQUIRE_SIGNATURE")
    paths = tuple(Path(part.strip()) for part in (text or "").split(",") if part.strip())
    if text is not None and not paths:  # for example a deployment whose own variable is unset
        raise ConfigError(
            "ABNN_REQUIRE_SIGNATURE is blank, expected paths of public keys; unset it to accept unsigned bundles"
        )
    return paths


def _noise_key(environ: Mapping[str, str]) -> bytes:
    if not (path := environ.get("ABNN_NOISE_KEY_FILE")):
        return b""
    try:
        key = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"ABNN_NOISE_KEY_FILE is {path!r}, which cannot be read: {error.strerror}") from error
    if len(key) < _NOISE_KEY_BYTES:
        raise ConfigError(
            f"ABNN_NOISE_KEY_FILE holds {len(key)} bytes, expected at least {_NOISE_KEY_BYTES} random ones; write it "
            "with: head -c 32 /dev/urandom > FILE"
        )
    return key


def read_count(environ: Mapping[str, str], name: str, minimum: int = 1) -> int | None:
    """Read a whole number from a variable; None if it is unset or blank.

    Raises:
        ConfigError: not a whole number, or less than `minimum`.
    """
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < minimum:
        raise ConfigError(f"{name} is {text!r}, expected a whole number of at least {minimum}")
    return int(text)
