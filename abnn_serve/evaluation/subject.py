"""Open a run or a bundle on disk as the subject of an evaluation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.card import RobustnessCard
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.model import EndpointModel
from abnn_serve.evaluation.endpoints.options import is_address, is_callable
from abnn_serve.evaluation.foreign.open import COMPARED, ForeignModel
from abnn_serve.evaluation.threats import ServedLogits, Subject
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network, PixelNetwork, ServedNetwork, torch_logits
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree, load_data
from abnn_serve.lab.training.run import Run, new_card
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import InputSpec, Labels

_TOLERANCE = 1e-3  # on logits
_CLEAN_IMAGES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSubject:
    """A subject, and the run or bundle on disk that it was read from.

    Attributes:
        run: the run that holds the network; None for a bundle without one.
        bundle: the bundle that serves the network; None for a run alone.
        foreign: the ONNX file that is evaluated; None for anything else.
        endpoint: the endpoint that is evaluated; None for anything else.
        limits: sentences for the card.
        input, labels: what the network was trained for.
        reopen: opens the subject again in another process, with one thread; can be pickled.
    """

    subject: Subject
    run: Run | None
    bundle: Bundle | None
    input: InputSpec
    labels: Labels
    reopen: Callable[[], Subject]
    foreign: ForeignModel | None = None
    endpoint: EndpointModel | None = None
    limits: tuple[str, ...] = ()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close an endpoint and write what it was asked when the block ends, however it does."""
        try:
            yield
        finally:
            if self.endpoint:
                self.endpoint.close()

    def check_data(self, data: ImageData) -> None:
        """ConfigError if `data` is the training data or, for a bundle, not the data of its card."""
        if self.run and data.digest == self.run.config.data_digest:
            raise ConfigError(f"{data.source} is the network's training data; give held-out data")
        if self.bundle and data.digest != self.bundle.card.data_digest:
            raise ConfigError(
                f"the card of {self.bundle.path} was measured on {self.bundle.card.data}, and {data.source} is other "
                "data; give the card's data, or export the run again with this data"
            )

    def card(self, data: ImageData) -> RobustnessCard:
        """The card to fill in: the bundle's own, or a new one for a run."""
        if self.bundle:
            return self.bundle.card
        if self.endpoint:
            return self.endpoint.card(data)
        if self.foreign:
            return self.foreign.card(data)
        assert self.run is not None  # noqa: S101
        weights = hashlib.sha256((self.run.path / "weights.pt").read_bytes()).hexdigest()
        return new_card(self.run, data, weights)


def open_subject(
    path: str | Path,
    *,
    run: str | Path | None = None,
    twin: str | Path | None = None,
    probe: str | Path | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    straight_through: bool = False,
    draws: int = 1,
) -> OpenedSubject:
    """Load the network to attack, and the networks that its attackers have.

    Args:
        path: a finished run, or a bundle.
        run: for a bundle, the run it was exported from; without it no gradients, and only `blackbox`, are available.
        twin: the undefended run of the same architecture.
        probe: the run of a classifier made from the substitute alone.
        device: device of a bundle's session, which answers black-box queries.
        threads: of that session; None takes all cores.
        straight_through: see `Subject`, as for `draws`.
        draws: as there.

    Raises:
        ConfigError: the bundle was not exported from `run`, or `twin` or `probe` is an ABNN run.
    """
    path = Path(path)
    adaptive: dict[str, Any] = {"straight_through": straight_through, "draws": draws}
    reopen = partial(_reopened, path, run=run, twin=twin, probe=probe, device=device, **adaptive)
    plain = {name: _plain(name, source) for name, source in (("twin", twin), ("probe", probe)) if source}
    if not (path / MANIFEST).is_file():
        if run:
            raise ConfigError(f"--run is for a bundle, and {path} is not a bundle; omit --run")
        finished = Run(path)
        config = finished.config
        subject = Subject(network=finished.network(), twin=plain.get("twin"), probe=plain.get("probe"), **adaptive)
        return OpenedSubject(
            subject=subject, run=finished, bundle=None, input=config.input, labels=config.labels, reopen=reopen
        )
    bundle = load_bundle(path)
    session = Session(bundle, device, threads)
    network = Run(run).network() if run else None
    if network is not None:
        _check_same(network, bundle, Path(str(run)))
    subject = Subject(
        network=network,
        twin=plain.get("twin"),
        probe=plain.get("probe"),
        served=_served(session),
        served_digest=bundle.manifest.files["model.onnx"].sha256,
        answer=bundle.manifest.answer,
        size=(bundle.manifest.input.height, bundle.manifest.input.width),
        **adaptive,
    )
    return OpenedSubject(
        subject=subject,
        run=Run(run) if run else None,
        bundle=bundle,
        input=bundle.manifest.input,
        labels=bundle.labels,
        reopen=reopen,
    )


def _reopened(path: Path, **options: Any) -> Subject:
    return open_subject(path, **options, threads=1).subject


def _served(session: Session) -> ServedLogits:
    """The bundle's logits as a client gets them: by its answer rule."""
    if session.bundle.manifest.answer is None:
        return session.run
    predictor = Predictor(session)
    return lambda images: np.stack([answer.logits for answer in predictor.answers(images)])


def open_foreign_subject(
    foreign: ForeignModel,
    data: str,
    *,
    gradients: bool = True,
    twin: str | Path | None = None,
    draws: int = 1,
) -> tuple[OpenedSubject, ImageData]:
    """The subject for an ONNX file, and the data, which decide whether its torch form and its preprocessing are right.

    Args:
        foreign: the file, as `open_foreign` returns it.
        data: as for `load_data`.
        gradients: convert the file to torch, for white-box attacks.
        twin: an undefended run with the same input.
        draws: see `Subject`.

    Raises:
        ConfigError: other labels, accuracy as by chance, or a file that cannot be converted.
        DataError: `data` cannot be read.
    """
    dataset = load_data(data, foreign.input)
    labels = foreign.labels_for(dataset)
    dataset = agree(labels, dataset)
    foreign.check_accuracy(dataset.spread(_CLEAN_IMAGES))
    plain = _plain("twin", twin) if twin else None
    subject, limits = foreign.subject(dataset, gradients=gradients, twin=plain, draws=draws)
    opened = OpenedSubject(
        subject=subject,
        run=None,
        bundle=None,
        input=foreign.input,
        labels=labels,
        reopen=partial(
            _reopened_foreign, foreign.reopen, dataset.spread(COMPARED), gradients=gradients, twin=twin, draws=draws
        ),
        foreign=foreign,
        limits=limits,
    )
    return opened, dataset


def open_endpoint_subject(model: EndpointModel, data: str) -> tuple[OpenedSubject, ImageData]:
    """The subject for an endpoint, and the data, on which its first answers are checked.

    Raises:
        ConfigError: as `EndpointModel.prepare`.
        DataError: `data` cannot be read.
    """
    try:
        labels, dataset = model.prepare(load_data(data, model.input))
    except BaseException:
        model.close()
        raise
    opened = OpenedSubject(
        subject=model.subject(),
        run=None,
        bundle=None,
        input=model.input,
        labels=labels,
        reopen=model.subject,
        endpoint=model,
        limits=(f"{model.endpoint.address} was asked over its interface alone; what runs behind it was not seen.",),
    )
    return opened, dataset


def _reopened_foreign(
    reopen: Callable[[], ForeignModel], data: ImageData, *, gradients: bool, twin: str | Path | None, draws: int
) -> Subject:
    plain = _plain("twin", twin) if twin else None
    return reopen().subject(data, gradients=gradients, twin=plain, draws=draws)[0]


def output_folder(path: str | Path, run: str | Path | None = None) -> Path:
    """Where `evaluate` writes its results by default: in a run, or beside the working directory's bundles and files."""
    if is_address(str(path)):
        return Path(re.sub(r"[^A-Za-z0-9.-]+", "-", str(path).partition("://")[2]).strip("-") + "-evaluation")
    if Path(path).suffix == ".onnx":
        return Path(f"{Path(path).stem}-evaluation")
    if is_callable(str(path)) and not Path(path).exists():
        return Path(f"{str(path).replace(':', '-')}-evaluation")
    if run or not (Path(path) / MANIFEST).is_file():
        return Path(run or path) / "evaluation"
    return Path(f"{Path(path).name}-evaluation")


def _plain(name: str, source: str | Path) -> PixelNetwork:
    network = Run(source).network()
    if not isinstance(network, PixelNetwork):
        kind = "an ABNN" if isinstance(network, AdaptiveNetwork) else "a mixture"
        raise ConfigError(f"--{name} is {source}, {kind} run; expected the run of a plain network")
    return network


def _check_same(network: Network, bundle: Bundle, run: Path) -> None:
    golden = bundle.golden
    try:
        error = float(np.abs(torch_logits(ServedNetwork(network).eval(), golden.inputs) - golden.logits).max())
    except (RuntimeError, ValueError) as problem:
        raise ConfigError(f"{bundle.path} was not exported from {run}: their shapes differ") from problem
    if not error <= _TOLERANCE:
        raise ConfigError(
            f"{bundle.path} was not exported from {run}: their logits on the golden inputs differ by {error:.2g}"
        )
