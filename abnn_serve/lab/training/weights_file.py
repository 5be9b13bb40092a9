"""`weights.safetensors` of a bundle: the run that it was exported from, so that training can go on from a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import BundleIntegrityError, TrainingError, one_line
from abnn_serve.lab.abnn.network import Network
from abnn_serve.lab.training.run import NetworkConfig, Run, RunConfig

WEIGHTS_FILE = "weights.safetensors"
MAX_BYTES = 25_000_000


def pack_weights(run: Run) -> bytes | None:
    """The bytes of `weights.safetensors`: fp32 weights, with the run's configuration; None where they are too large."""
    state = {name: value.contiguous() for name, value in run.network().state_dict().items()}
    if sum(value.nbytes for value in state.values()) > MAX_BYTES:
        return None
    config = run.config
    substitute = None if config.substitute is None else _without_folders(config.substitute)
    config = replace(config, target=_without_folders(config.target), substitute=substitute)
    return save(state, {"run": canonical(to_json(config)).decode(), "seconds": repr(run.total_seconds)})


def _without_folders(config: NetworkConfig) -> NetworkConfig:
    """A network's name without the folders of the weights file that it was loaded from."""
    name, at, weights = config.name.partition("@")
    return replace(config, name=name + at + Path(weights).name)


def open_run(path: str | Path) -> Run:
    """A finished run, or what a bundle keeps of the one that it was exported from."""
    return BundledRun(load_bundle(path)) if (Path(path) / MANIFEST).is_file() else Run(path)


class BundledRun(Run):
    """The run that a bundle was exported from: its configuration, weights and seconds, without checkpoints.

    Raises:
        TrainingError: the bundle keeps no weights: it is older than they are, or too large.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.path)
        if WEIGHTS_FILE not in bundle.manifest.files:
            raise TrainingError(
                f"{bundle.path} has no {WEIGHTS_FILE} to start from; export its run again (weights over "
                f"{MAX_BYTES // 1_000_000} MB are left out), or give the run"
            )
        self._bytes = bundle.read(WEIGHTS_FILE)
        self._where = str(bundle.path / WEIGHTS_FILE)

    @property
    def config(self) -> RunConfig:
        """What was trained."""
        return from_json(RunConfig, json.loads(self._header["run"]), self._where, TrainingError)

    @property
    def total_seconds(self) -> float:
        """Time in training steps of the run and of those that it started from."""
        return float(self._header["seconds"])

    def network(self) -> Network:
        """The trained network, on the CPU and in eval mode."""
        network = self.config.build()
        try:
            network.load_state_dict(load(self._bytes))
        except (SafetensorError, RuntimeError) as error:
            raise BundleIntegrityError(f"{self._where} cannot be loaded ({one_line(error)})") from error
        return network.eval()

    @property
    def _header(self) -> dict[str, str]:
        """The metadata of a safetensors file: JSON behind its length in 8 bytes."""
        try:
            length = int.from_bytes(self._bytes[:8], "little")
            header: dict[str, str] = json.loads(self._bytes[8 : 8 + length])["__metadata__"]
        except (ValueError, KeyError) as error:
            raise BundleIntegrityError(f"{self._where} has no metadata; export its run again") from error
        return header
