"""Where served bundles come from: paths, folders, lists and BentoML's model store, and what each must be."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.errors import ConfigError
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.rules.noise import NoiseRule
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, Settings
from abnn_serve.service.model_store import PREFIX, find_in_store
from abnn_serve.spec import Modality


def find_sources(settings: Settings) -> dict[str, Settings]:
    """Sources of all bundles, the default first, with the settings of each."""
    sources = find_bundles(settings.bundle)
    digests = required_digests(settings, len(sources))
    by_source = {source: replace(settings, digest=digest) for source, digest in zip(sources, digests, strict=True)}
    if settings.video_bundle:
        by_source.setdefault(str(settings.video_bundle), settings.for_video())
    return by_source


def find_bundles(value: Path) -> list[str]:
    """Expand the value of ABNN_BUNDLE into one source per bundle.

    Args:
        value: a bundle, a folder of bundles, `bento:TAG`, or several of these separated by commas. Bundles in a folder
            are sorted by name, but the package's default bundle comes first.

    Raises:
        ConfigError: `value` is empty.
    """
    sources: list[str] = []
    for part in filter(None, (part.strip() for part in str(value).split(","))):
        folders = [file.parent for file in Path(part).glob(f"[!.]*/{MANIFEST}")]
        folders.sort(key=lambda folder: (folder.name != DEFAULT_BUNDLE, folder))
        is_source = part.startswith(PREFIX) or (Path(part) / MANIFEST).is_file() or not folders
        sources += [part] if is_source else map(str, folders)
    if not sources:
        raise ConfigError(
            "ABNN_BUNDLE names no bundle, expected a bundle, a folder of bundles, bento:TAG, or a comma-separated list"
        )
    return sources


def required_digests(settings: Settings, count: int) -> list[str | None]:
    """The digest that ABNN_BUNDLE_DIGEST requires of each of `count` bundles; None accepts any.

    Raises:
        ConfigError: another number of digests.
    """
    digests: list[str | None] = [*settings.digest.split(",")] if settings.digest else [None] * count
    if len(digests) != count:
        raise ConfigError(f"ABNN_BUNDLE_DIGEST has {len(digests)} digests for {count} bundles, expected one for each")
    return digests


def bundle_path(source: str) -> Path:
    """The directory of a source; `bento:TAG` is looked up in the BentoML model store each time."""
    return find_in_store(source) if source.startswith(PREFIX) else Path(source)


def resolve(source: str) -> str:
    """The source with an absolute path; `bento:TAG` stays."""
    return source if source.startswith(PREFIX) else str(Path(source).resolve())


def digest_on_disk(source: str) -> str | None:
    """The bundle's digest; None if it is missing, for example while it is being replaced."""
    try:
        return hashlib.sha256((bundle_path(source) / MANIFEST).read_bytes()).hexdigest()
    except (OSError, ConfigError):
        return None


def check_video(settings: Settings, source: str, modality: Modality) -> None:
    """Check the bundle that ABNN_VIDEO_BUNDLE names.

    Raises:
        ConfigError: it classifies images.
    """
    if settings.video_bundle and source == str(settings.video_bundle) and modality != "video":
        raise ConfigError(
            f"ABNN_VIDEO_BUNDLE is {source}, which classifies {modality}s; set it to a video bundle, or unset it"
        )


def check_noise_key(settings: Settings, predictor: Predictor) -> None:
    """Check that the noise of a bundle's answers has a key.

    Raises:
        ConfigError: the bundle answers with noise, which clients could predict without a key.
    """
    if isinstance(predictor.rule, NoiseRule) and not settings.noise_key:
        raise ConfigError(
            f"{predictor.bundle.manifest.name} answers with noise, and without a key clients could predict it; set "
            "ABNN_NOISE_KEY_FILE to a file that was written with: head -c 32 /dev/urandom > FILE"
        )
