"""Open a run or a bundle on disk as the subject of an evaluation."""

from __future__ import annotations

import hashlib
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
from abnn_serve.evaluation.foreign.open import ForeignModel
from abnn_serve.evaluation.served import ServedLogits
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network, PixelNetwork, ServedNetwork, torch_logits
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.run import Run, new_card
from abnn_serve.lab.training.weights_file import kept_run, open_run
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.session import Session
from abnn_serve.runtime.settings import Device
from abnn_serve.spec import InputSpec, Labels

_TOLERANCE = 1e-3  # on logits


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
        run: for a bundle without weights, the run it was exported from; otherwise only `blackbox` is available.
        twin: the undefended run, or bundle, of the same architecture.
        probe: the run, or bundle, of a classifier made from the substitute alone.
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
    plain = {name: plain_network(name, source) for name, source in (("twin", twin), ("probe", probe)) if source}
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
    exported = open_run(run) if run else kept_run(bundle)
    network = exported.network() if exported else None
    if network is not None:
        _check_same(network, bundle, Path(run or path))
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
        run=exported,
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


def plain_network(name: str, source: str | Path) -> PixelNetwork:
    """The network of a run; ConfigError, which names the option `name`, if it is an ABNN or a mixture."""
    network = open_run(source).network()
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
