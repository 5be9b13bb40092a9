"""From a run or a bundle on disk to what `evaluate` attacks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.card import RobustnessCard
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.threats import Subject
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network, PixelNetwork, ServedNetwork, torch_logits
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.training.run import Run, new_card
from abnn_serve.runtime.session import Session
from abnn_serve.spec import InputSpec, Labels

_SAME = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A subject with where it came from.

    Attributes:
        folder: where its evaluation is kept unless another is named.
        bundle: what is served; None for a run alone.
    """

    subject: Subject
    run: Run | None
    bundle: Bundle | None
    input: InputSpec
    labels: Labels
    folder: Path

    def check_data(self, data: ImageData) -> None:
        """ConfigError unless the card's figures may be taken on `data`: held-out, and for a bundle the card's own."""
        if self.run and data.digest == self.run.config.data_digest:
            raise ConfigError(f"{data.source} is what the network was trained on; give held-out samples")
        if self.bundle and data.digest != self.bundle.card.data_digest:
            raise ConfigError(
                f"{data.source} is not what the card of {self.bundle.path} is about, {self.bundle.card.data}; attack "
                "that, or export the run again with this data"
            )

    def card(self, data: ImageData) -> RobustnessCard:
        """The card to fill: the bundle's own, or a new one for a run."""
        if self.bundle:
            return self.bundle.card
        assert self.run is not None  # noqa: S101
        weights = hashlib.sha256((self.run.path / "weights.pt").read_bytes()).hexdigest()
        return new_card(self.run, data, weights)


def open_subject(
    path: str | Path, *, run: str | Path | None = None, twin: str | Path | None = None, probe: str | Path | None = None
) -> Opened:
    """Open what is to be attacked, and what its attackers hold.

    Args:
        path: a finished run, or a bundle.
        run: for a bundle, the run that it was exported from: without it there is no gradient and only `blackbox`.
        twin: the undefended run of the same architecture.
        probe: the run of a classifier made from the substitute alone.

    Raises:
        ConfigError: `run` is not what the bundle was exported from, or `twin` or `probe` is no plain network.
    """
    path = Path(path)
    plain = {name: _plain(name, source) for name, source in (("twin", twin), ("probe", probe)) if source}
    if not (path / MANIFEST).is_file():
        if run:
            raise ConfigError(f"--run goes with a bundle, and {path} is none; leave --run out")
        found = Run(path)
        config = found.config
        subject = Subject(network=found.network(), twin=plain.get("twin"), probe=plain.get("probe"))
        return Opened(
            subject=subject,
            run=found,
            bundle=None,
            input=config.input,
            labels=config.labels,
            folder=path / "evaluation",
        )
    bundle = load_bundle(path)
    session = Session(bundle, "cpu")
    network = Run(run).network() if run else None
    if network is not None:
        _check_same(network, bundle, Path(str(run)))
    subject = Subject(
        network=network,
        twin=plain.get("twin"),
        probe=plain.get("probe"),
        served=session.run,
        served_digest=bundle.manifest.files["model.onnx"].sha256,
    )
    return Opened(
        subject=subject,
        run=Run(run) if run else None,
        bundle=bundle,
        input=bundle.manifest.input,
        labels=bundle.labels,
        folder=Path(run) / "evaluation" if run else Path(f"{path.name}-evaluation"),
    )


def _plain(name: str, source: str | Path) -> PixelNetwork:
    network = Run(source).network()
    if isinstance(network, AdaptiveNetwork):
        raise ConfigError(f"--{name} is {source}, an ABNN run; expected a plain network's")
    return network


def _check_same(network: Network, bundle: Bundle, run: Path) -> None:
    golden = bundle.golden
    try:
        error = float(np.abs(torch_logits(ServedNetwork(network).eval(), golden.inputs) - golden.logits).max())
    except (RuntimeError, ValueError) as problem:
        raise ConfigError(f"{run} is not what {bundle.path} was exported from: other shapes") from problem
    if not error <= _SAME:
        raise ConfigError(
            f"{run} is not what {bundle.path} was exported from: on the golden inputs logits differ by {error:.2g}"
        )
