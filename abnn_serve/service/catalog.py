"""The served bundles, by name: loaded, warmed up, and reloaded when a new version appears on disk."""

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
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.runtime.drift import DriftMeter
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.rules.noise import NoiseRule
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import DEFAULT_BUNDLE, Settings
from abnn_serve.service.batcher import RUN_SECONDS, Batcher
from abnn_serve.service.errors import UnknownModelError
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.model_store import PREFIX, find_in_store
from abnn_serve.service.quality import open_drift_meter
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.spec import InputSpec, Modality

log = logging.getLogger("abnn_serve")
_THROUGHPUT_SLACK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One version of one bundle, ready for requests."""

    predictor: Predictor
    batcher: Batcher
    drift: DriftMeter | None = None

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.predictor.bundle.manifest.name

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.predictor.bundle.manifest.version

    @property
    def spec(self) -> InputSpec:
        """Size, fit and sampling of the model's input."""
        return self.predictor.bundle.manifest.input

    @property
    def modality(self) -> Modality:
        """`image` or `video`."""
        return self.spec.modality


class Catalog:
    """All bundles of the service; the first is the default.

    Args:
        decoders: processes that decode images and videos; None decodes in this process.
        on_device_lost: called, from the session's thread, when a run fails because its GPU no longer works.

    Raises:
        AbnnError: a bundle cannot be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        service: ServiceSettings,
        metrics: Metrics,
        decoders: DecoderPool | None = None,
        on_device_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._service, self._decoders = service, decoders
        self._on_device_lost = on_device_lost
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(1, "session")
        self._names: dict[str, str] = {}
        self._models: dict[str, ServedModel] = {}
        self._failed_digests: dict[str, str] = {}
        self._sources = find_sources(settings)
        for source in self._sources:
            model = self._load(source)
            check_video(settings, source, model.modality)
            if model.name in self._models:
                raise ConfigError(f"{source} is a second bundle named {model.name!r}; rename one of them")
            self._put(source, model)

    def get(self, name: str | None = None, modality: Modality | None = None) -> ServedModel:
        """Return the model named `name`, or without a name the first model of `modality`.

        Raises:
            UnknownModelError: no such model is served.
        """
        if name is None:
            candidates = (model for model in self._models.values() if modality in (None, model.modality))
            if (first := next(candidates, None)) is None:
                raise UnknownModelError(f"this server has no {modality} model; set ABNN_BUNDLE", field="model")
            return first
        if name not in self._models:
            raise UnknownModelError(
                f"unknown model {name[:64]!r}, expected one of {', '.join(self._models)}", field="model"
            )
        return self._models[name]

    def all(self) -> list[ServedModel]:
        """All models, the default first."""
        return list(self._models.values())

    async def watch(self, seconds: float) -> None:
        """Reload changed bundles every `seconds`, until cancelled. Requests in flight finish on their old version."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # keep serving the loaded versions, and check again later
                log.exception("checking for new bundle versions failed")

    def refresh(self) -> None:
        """Reload the bundles that changed on disk; if a new version cannot be loaded, keep the old one."""
        for source, name in list(self._names.items()):
            digest = _digest_on_disk(source)
            if digest in {None, self._models[name].predictor.bundle.digest}:
                continue
            try:
                model = self._load(source)
                if model.name != name:
                    raise BundleError(f"{source} is now a bundle named {model.name!r}, expected {name!r}")
            except (AbnnError, OSError) as error:
                if self._failed_digests.get(source) != digest:  # retried, as it may be half copied, but logged once
                    self._failed_digests[source] = str(digest)
                    self._metrics.reloads.labels(name, "failed").inc()
                    log.warning("cannot load the new version of %s: %s", name, one_line(error))
                continue
            self._put(source, model)
            self._metrics.reloads.labels(name, "served").inc()
            log.info("%s: now serving version %s, digest %s", name, model.version, model.predictor.bundle.digest)

    def _put(self, source: str, model: ServedModel) -> None:
        if (old := self._models.get(model.name)) is not None:
            self._metrics.model.labels(*_labels(old)).set(0)
        self._names[source] = model.name
        self._models[model.name] = model
        self._metrics.model.labels(*_labels(model)).set(1)

    def _load(self, source: str) -> ServedModel:
        settings = replace(self._sources[source], bundle=bundle_path(source))
        predictor = Predictor.from_settings(settings, decoders=self._decoders)
        check_noise_key(settings, predictor)
        run_seconds = warm_up(predictor.session)
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

        timings = ", ".join(f"{size}: {1000 * seconds:.1f} ms" for size, seconds in run_seconds.items())
        log.info("%s: warmed up; run time by batch size: %s", name, timings)
        batcher = Batcher(
            run,
            self._executor,
            max_batch=self._service.max_batch or best_batch_size(run_seconds),
            max_queue=self._service.max_queue,
            seconds=min(seconds / size for size, seconds in run_seconds.items()),
            on_batch=on_batch,
        )
        drift = open_drift_meter(predictor.bundle) if self._service.drift_sample else None
        return ServedModel(predictor=predictor, batcher=batcher, drift=drift)


def find_sources(settings: Settings) -> dict[str, Settings]:
    """Sources of all bundles, the default first, with the settings of each."""
    sources = find_bundles(settings.bundle)
    digests = required_digests(settings, len(sources))
    by_source = {source: replace(settings, digest=digest) for source, digest in zip(sources, digests, strict=True)}
    if settings.video_bundle:
        by_source.setdefault(str(settings.video_bundle), settings.for_video())
    return by_source


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


def warm_up(session: Session) -> dict[int, float]:
    """Run batch sizes 1, 2, 4, ... until a run takes RUN_SECONDS; return the best of three run times for each, in s."""
    run_seconds: dict[int, float] = {}
    size = 1
    while size <= session.max_batch and (not run_seconds or max(run_seconds.values()) <= RUN_SECONDS):
        zeros = np.zeros((size, *session.bundle.manifest.input.shape), np.uint8)
        run_seconds[size] = min(_time_run(session, zeros) for _ in range(3))
        size *= 2
    return run_seconds


def best_batch_size(run_seconds: dict[int, float]) -> int:
    """The smallest batch within 5% of the best throughput: larger ones add latency only."""
    best = min(seconds / size for size, seconds in run_seconds.items())
    return min(size for size, seconds in run_seconds.items() if seconds / size <= best * (1 + _THROUGHPUT_SLACK))


def _time_run(session: Session, images: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    session.run(images)
    return time.perf_counter() - started


def required_digests(settings: Settings, count: int) -> list[str | None]:
    """The digest that ABNN_BUNDLE_DIGEST requires of each of `count` bundles; None accepts any.

    Raises:
        ConfigError: another number of digests.
    """
    digests: list[str | None] = [*settings.digest.split(",")] if settings.digest else [None] * count
    if len(digests) != count:
        raise ConfigError(f"ABNN_BUNDLE_DIGEST has {len(digests)} digests for {count} bundles, expected one for each")
    return digests


def _digest_on_disk(source: str) -> str | None:
    """The bundle's digest; None if it is missing, for example while it is being replaced."""
    try:
        return hashlib.sha256((bundle_path(source) / MANIFEST).read_bytes()).hexdigest()
    except (OSError, ConfigError):
        return None


def _labels(model: ServedModel) -> tuple[str, ...]:
    session, digest = model.predictor.session, model.predictor.bundle.digest
    return model.name, model.version, digest, session.provider, session.precision


def bundle_path(source: str) -> Path:
    """The directory of a source; `bento:TAG` is looked up in the BentoML model store each time."""
    return find_in_store(source) if source.startswith(PREFIX) else Path(source)
