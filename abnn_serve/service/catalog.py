"""The served bundles, by name and version, with their candidates; reloaded when a new version appears on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from abnn_serve.errors import AbnnError, BundleError, ConfigError, one_line
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.batcher import Batcher
from abnn_serve.service.candidates import Arm, Candidate, Role
from abnn_serve.service.errors import UnknownModelError
from abnn_serve.service.metrics import Metrics
from abnn_serve.service.served_model import ModelLoader, ServedModel
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.sources import bundle_path, check_video, digest_on_disk, find_sources
from abnn_serve.spec import Modality

log = logging.getLogger("abnn_serve")


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A bundle on disk, and the version of it that is loaded; `candidate` is None for a served one."""

    source: str
    settings: Settings
    model: ServedModel
    candidate: Candidate | None = None
    failed_digest: str | None = None


class Catalog:
    """All bundles of the service; the first is the default, and of several versions of one name the first.

    Args:
        settings: bundles and devices.
        service: candidates and limits.
        metrics: the worker's metrics.
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
        self._metrics = metrics
        self._loader = ModelLoader(service, metrics, decoders, on_device_lost)
        self._served: list[_Entry] = []
        self._candidates: list[_Entry] = []
        self._versions: dict[str, dict[str, ServedModel]] = {}
        self._replacements: dict[tuple[Role, str], _Entry] = {}
        for source, own_settings in find_sources(settings).items():
            entry = self._open(source, own_settings)
            check_video(settings, source, entry.model.modality)
            self._check_served(entry, entry.model)
            self._served.append(entry)
            self._set_info(entry, 1)
            self._index()
        for candidate in service.candidates:
            entry = self._open(candidate.source, candidate_settings(settings, service, candidate), candidate)
            self._check_candidate(entry, entry.model)
            self._candidates.append(entry)
            self._set_info(entry, 1)
        self._index()

    def get(self, name: str | None = None, modality: Modality | None = None, version: str | None = None) -> ServedModel:
        """Return a version of the model `name`, or without a name the first model of `modality`.

        Raises:
            UnknownModelError: no such model or version is served.
        """
        if name is None:
            name = next((model.name for model in self.all() if modality in (None, model.modality)), None)
            if name is None:
                raise UnknownModelError(f"this server has no {modality} model; set ABNN_BUNDLE", field="model")
        if (versions := self._versions.get(name)) is None:
            names = ", ".join(self._versions)
            raise UnknownModelError(f"unknown model {name[:64]!r}, expected one of {names}", field="model")
        if version is None:
            return next(iter(versions.values()))
        if version not in versions:
            raise UnknownModelError(
                f"{name} has no version {version[:64]!r}, expected {' or '.join(map(repr, versions))}", field="version"
            )
        return versions[version]

    def choose(
        self, name: str | None, modality: Modality, version: str | None, caller: str
    ) -> tuple[ServedModel, tuple[str, Arm] | None]:
        """The model that answers a request, and if it has a canary, its name and which of the two this is.

        Args:
            name: as for `get`.
            modality: as for `get`.
            version: as for `get`; a canary answers no request that names a version.
            caller: identity of the client, see `Candidate.takes`.
        """
        model = self.get(name, modality, version)
        entry = self._replacements.get(("canary", model.name))
        if version is not None or entry is None or entry.candidate is None:
            return model, None
        if entry.candidate.takes(caller):
            return entry.model, (model.name, "canary")
        return model, (model.name, "stable")

    def shadow_of(self, model: ServedModel) -> ServedModel | None:
        """The candidate that is compared with this model; None for a version that is not the default."""
        entry = self._replacements.get(("shadow", model.name))
        return entry.model if entry and model is self.get(model.name) else None

    def all(self) -> list[ServedModel]:
        """All served models without candidates, the default first."""
        return [entry.model for entry in self._served]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, the default first."""
        return list(self._versions.get(name, ()))

    def queues(self) -> list[Batcher]:
        """The queues of all models, candidates included."""
        return [entry.model.batcher for entry in (*self._served, *self._candidates)]

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
        for entry in (*self._served, *self._candidates):
            digest = digest_on_disk(entry.source)
            if digest in {None, entry.model.digest}:
                continue
            name = entry.model.name
            try:
                model = self._loader.load(replace(entry.settings, bundle=bundle_path(entry.source)))
                (self._check_candidate if entry.candidate else self._check_served)(entry, model)
            except (AbnnError, OSError) as error:
                if entry.failed_digest != digest:  # retried, as it may be half copied, but logged once
                    entry.failed_digest = digest
                    self._metrics.reloads.labels(name, "failed").inc()
                    log.warning("cannot load the new version of %s: %s", name, one_line(error))
                continue
            self._set_info(entry, 0)
            entry.model = model
            self._index()
            self._set_info(entry, 1)
            self._metrics.reloads.labels(name, "served").inc()
            log.info("%s: now serving version %s, digest %s", name, model.version, model.digest)
            self._warn_of_orphans(model)

    def _open(self, source: str, settings: Settings, candidate: Candidate | None = None) -> _Entry:
        model = self._loader.load(replace(settings, bundle=bundle_path(source)))
        return _Entry(source=source, settings=settings, model=model, candidate=candidate)

    def _index(self) -> None:
        """Look up what every request asks: versions by name, and the candidates of models that they can replace."""
        versions: dict[str, dict[str, ServedModel]] = {}
        for model in self.all():
            versions.setdefault(model.name, {})[model.version] = model
        self._versions = versions
        self._replacements = {
            (entry.candidate.role, entry.candidate.name): entry
            for entry in self._candidates
            if entry.candidate and entry.model.can_replace(self.get(entry.candidate.name))
        }

    def _check_served(self, entry: _Entry, model: ServedModel) -> None:
        if model.name != entry.model.name:
            raise BundleError(f"{entry.source} is now a bundle named {model.name!r}, expected {entry.model.name!r}")
        others = [other.model for other in self._served if other is not entry and other.model.name == model.name]
        if model.version in {other.version for other in others}:
            raise ConfigError(
                f"{entry.source} is a second bundle named {model.name!r} of version {model.version!r}; export one of "
                "them with another name or --version"
            )

    def _check_candidate(self, entry: _Entry, model: ServedModel) -> None:
        if (candidate := entry.candidate) is None:
            return
        try:
            served = self.get(candidate.name)
        except UnknownModelError as error:
            raise ConfigError(f"{candidate.variable}: {error}") from error
        if not model.can_replace(served):
            raise ConfigError(
                f"{candidate.variable} is {entry.source}, whose input or labels are not those of {served.name}; export "
                "it with the same input and labels"
            )

    def _warn_of_orphans(self, model: ServedModel) -> None:
        for entry in self._candidates:
            if entry.candidate and entry.candidate.name == model.name and not entry.model.can_replace(model):
                log.warning("%s is idle: %s now has another input or labels", entry.candidate.variable, model.name)

    def _set_info(self, entry: _Entry, value: int) -> None:
        model, session = entry.model, entry.model.predictor.session
        labels = model.name, model.version, model.digest, session.provider, session.precision
        if entry.candidate:
            self._metrics.candidate.labels(entry.candidate.name, entry.candidate.role, *labels).set(value)
        else:
            self._metrics.model.labels(*labels).set(value)


def candidate_settings(settings: Settings, service: ServiceSettings, candidate: Candidate) -> Settings:
    """Settings of a candidate: those of the served bundles without a required digest; a shadow has one thread."""
    if candidate.role == "canary":
        return replace(settings, digest=None)
    return replace(settings, digest=None, threads=1, precision=service.shadow_precision or settings.precision)
