"""The bundles that are served, by name: loaded, warmed up, and replaced when a new version lies on disk."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.errors import AbnnError, BundleError, ConfigError, DeviceLostError, one_line
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, Settings
from abnn_serve.service.batcher import RUN_SECONDS, Batcher
from abnn_serve.service.errors import UnknownModelError
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.model_store import PREFIX, find_in_store
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.spec import InputSpec, Modality

log = logging.getLogger("abnn_serve")
_WORTH = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One version of one bundle, ready to answer."""

    predictor: Predictor
    batcher: Batcher

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.predictor.bundle.manifest.name

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.predictor.bundle.manifest.version

    @property
    def spec(self) -> InputSpec:
        """What it takes."""
        return self.predictor.bundle.manifest.input

    @property
    def modality(self) -> Modality:
        """Images or videos."""
        return self.spec.modality


class Catalog:
    """All bundles of the service; the first is the default.

    Args:
        on_device_lost: called, from the session's thread, when a run fails because its GPU no longer works.

    Raises:
        AbnnError: one of them cannot be served; nothing is then.
    """

    def __init__(
        self,
        settings: Settings,
        service: ServiceSettings,
        metrics: Metrics,
        on_device_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = service
        self._on_device_lost = on_device_lost
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(1, "session")
        self._names: dict[str, str] = {}
        self._served: dict[str, Served] = {}
        self._refused: dict[str, str] = {}
        self._sources = find_sources(settings)
        for source in self._sources:
            served = self._load(source)
            check_video(settings, source, served.modality)
            if served.name in self._served:
                raise ConfigError(f"{source} holds another bundle named {served.name!r}; names must differ")
            self._put(source, served)

    def get(self, name: str | None = None, modality: Modality | None = None) -> Served:
        """The bundle of that name, or the first that takes such inputs; UnknownModelError where there is none."""
        if name is None:
            fitting = (served for served in self._served.values() if modality in (None, served.modality))
            if (first := next(fitting, None)) is None:
                raise UnknownModelError(f"no model for {modality}s is served here", field="model")
            return first
        if name not in self._served:
            raise UnknownModelError(
                f"no model named {name[:64]!r} here, expected one of {', '.join(self._served)}", field="model"
            )
        return self._served[name]

    def all(self) -> list[Served]:
        """Every bundle, the default first."""
        return list(self._served.values())

    async def watch(self, seconds: float) -> None:
        """Look for new versions for ever; a run in progress ends in the version that it began in."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # whatever it is, the versions that answer stay, and the next look comes
                log.exception("looking for new versions failed")

    def refresh(self) -> None:
        """Load what changed on disk; what cannot be loaded leaves the version that answers in place."""
        for source, name in list(self._names.items()):
            identity = _identity(source)
            if identity in {None, self._served[name].predictor.bundle.digest}:
                continue
            try:
                served = self._load(source)
                if served.name != name:
                    raise BundleError(f"{source} now holds a bundle named {served.name!r}, not {name!r}")
            except (AbnnError, OSError) as error:
                if self._refused.get(source) != identity:  # it may be half copied: it is tried again, and said once
                    self._refused[source] = str(identity)
                    self._metrics.reloads.labels(name, "failed").inc()
                    log.warning("the new version of %s is not served: %s", name, one_line(error))
                continue
            self._put(source, served)
            self._metrics.reloads.labels(name, "served").inc()
            log.info("%s: now serving version %s, %s", name, served.version, served.predictor.bundle.digest)

    def _put(self, source: str, served: Served) -> None:
        if (old := self._served.get(served.name)) is not None:
            self._metrics.model.labels(*_labels(old)).set(0)
        self._names[source] = served.name
        self._served[served.name] = served
        self._metrics.model.labels(*_labels(served)).set(1)

    def _load(self, source: str) -> Served:
        settings = replace(self._sources[source], bundle=locate(source))
        predictor = Predictor.from_settings(settings)
        sizes = warm_up(predictor.session)
        name = predictor.bundle.manifest.name

        def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            try:
                return predictor.session.run(images)
            except DeviceLostError:
                self._on_device_lost()
                raise

        def on_batch(size: int, seconds: float) -> None:
            self._metrics.batch.labels(name).observe(size)
            self._metrics.runs.labels(name).observe(seconds)

        log.info("%s: warmed up, %s", name, ", ".join(f"{n} in {1000 * s:.1f} ms" for n, s in sizes.items()))
        batcher = Batcher(
            run,
            self._executor,
            max_batch=self._service.max_batch or worthwhile(sizes),
            max_queue=self._service.max_queue,
            seconds=min(seconds / size for size, seconds in sizes.items()),
            on_batch=on_batch,
        )
        return Served(predictor=predictor, batcher=batcher)


def find_sources(settings: Settings) -> dict[str, Settings]:
    """Where every bundle lies that `settings` name, the default first, each with its own settings."""
    places = find_bundles(settings.bundle)
    digests = pins(settings, len(places))
    found = {place: replace(settings, digest=digest) for place, digest in zip(places, digests, strict=True)}
    if settings.video_bundle:
        found.setdefault(str(settings.video_bundle), settings.for_video())
    return found


def check_video(settings: Settings, source: str, modality: Modality) -> None:
    """ConfigError where ABNN_VIDEO_BUNDLE names a bundle for pictures."""
    if settings.video_bundle and source == str(settings.video_bundle) and modality != "video":
        raise ConfigError(f"ABNN_VIDEO_BUNDLE is {source}, which takes {modality}s; name a bundle for videos, or none")


def find_bundles(place: Path) -> list[str]:
    """What ABNN_BUNDLE names: a directory, a folder of such, `bento:TAG`, or several with commas between.

    In a folder the package's default comes first, then the others by name.
    """
    found: list[str] = []
    for part in filter(None, (part.strip() for part in str(place).split(","))):
        folders = [file.parent for file in Path(part).glob(f"[!.]*/{MANIFEST}")]
        inside = [str(folder) for folder in sorted(folders, key=lambda folder: (folder.name != DEFAULT_BUNDLE, folder))]
        alone = part.startswith(PREFIX) or (Path(part) / MANIFEST).is_file() or not inside
        found += [part] if alone else inside
    if not found:
        raise ConfigError("ABNN_BUNDLE names no bundle, expected a directory, several with commas, or bento:TAG")
    return found


def warm_up(session: Session) -> dict[int, float]:
    """Run every batch size that is a power of two and takes RUN_SECONDS at most; the best of three times, by size."""
    times: dict[int, float] = {}
    size = 1
    while size <= session.max_batch and (not times or max(times.values()) <= RUN_SECONDS):
        zeros = np.zeros((size, *session.bundle.manifest.input.shape), np.uint8)
        times[size] = min(_seconds(session, zeros) for _ in range(3))
        size *= 2
    return times


def worthwhile(sizes: dict[int, float]) -> int:
    """The smallest batch within _WORTH of the most samples a second: in larger ones requests only wait for others."""
    best = min(seconds / size for size, seconds in sizes.items())
    return min(size for size, seconds in sizes.items() if seconds / size <= best * (1 + _WORTH))


def _seconds(session: Session, images: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    session.run(images)
    return time.perf_counter() - started


def pins(settings: Settings, bundles: int) -> list[str | None]:
    """The identity that each bundle must have, by ABNN_BUNDLE_DIGEST; None accepts any."""
    found: list[str | None] = [*settings.digest.split(",")] if settings.digest else [None] * bundles
    if len(found) != bundles:
        raise ConfigError(
            f"ABNN_BUNDLE_DIGEST has {len(found)} identities for {bundles} bundles, expected one for each"
        )
    return found


def _identity(source: str) -> str | None:
    """Of what lies there now; None where nothing does, as while it is being replaced."""
    try:
        return hashlib.sha256((locate(source) / MANIFEST).read_bytes()).hexdigest()
    except (OSError, ConfigError):
        return None


def _labels(served: Served) -> tuple[str, ...]:
    session, digest = served.predictor.session, served.predictor.bundle.digest
    return served.name, served.version, digest, session.provider, session.precision


def locate(source: str) -> Path:
    """The directory; for a tag of the BentoML model store, that of the version which it means now."""
    return find_in_store(source) if source.startswith(PREFIX) else Path(source)
