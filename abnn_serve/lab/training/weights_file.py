"""`weights.safetensors` of a bundle: its run's configuration and the weights that its graph lacks, to train further."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save

from abnn_serve.bundle.manifest import MANIFEST
from abnn_serve.bundle.store import Bundle, load_bundle
from abnn_serve.codec import canonical, from_json, to_json
from abnn_serve.errors import BundleIntegrityError, TrainingError, one_line
from abnn_serve.lab.abnn.network import Network
from abnn_serve.lab.training.run import MixtureConfig, NetworkConfig, Run, RunConfig
from abnn_serve.lab.training.weights_in_graph import leave_to_graph, take_from_graph

WEIGHTS_FILE = "weights.safetensors"
MAX_BYTES = 25_000_000

Config = TypeVar("Config", RunConfig, MixtureConfig)


def pack_weights(run: Run, model: bytes) -> bytes | None:
    """The content of `weights.safetensors`: the configuration, and the fp32 weights that the graph `model` lacks.

    Returns:
        None if these weights take more than `MAX_BYTES`.
    """
    state, in_graph = leave_to_graph(run.network().state_dict(), model)
    state = {name: value.contiguous() for name, value in state.items()}
    if sum(value.nbytes for value in state.values()) > MAX_BYTES:
        return None
    config = without_folders(run.config)
    if config.mixture is not None:
        config = replace(config, mixture=without_folders(config.mixture))
    described = {"run": canonical(to_json(config)).decode(), "seconds": repr(run.total_seconds)}
    return save(state, described | {"in_graph": json.dumps(in_graph)})


def without_folders(config: Config) -> Config:
    """Config whose weights files are named without their folders."""
    substitute = None if config.substitute is None else _file_name_only(config.substitute)
    return replace(config, target=_file_name_only(config.target), substitute=substitute)


def _file_name_only(config: NetworkConfig) -> NetworkConfig:
    name, at, weights = config.name.partition("@")
    return replace(config, name=name + at + Path(weights).name)


def open_run(path: str | Path) -> Run:
    """Open a finished run, or the run whose weights a bundle holds."""
    return BundledRun(load_bundle(path)) if (Path(path) / MANIFEST).is_file() else Run(path)


def kept_run(bundle: Bundle) -> BundledRun | None:
    """The run whose weights a bundle holds; None if it has none."""
    return BundledRun(bundle) if WEIGHTS_FILE in bundle.manifest.files else None


class BundledRun(Run):
    """The run that a bundle was exported from: configuration, weights and seconds, without checkpoints or metrics.

    Raises:
        TrainingError: the bundle has no weights, because it is too old or its weights are too large.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.path)
        if WEIGHTS_FILE not in bundle.manifest.files:
            raise TrainingError(
                f"{bundle.path} has no {WEIGHTS_FILE} to start from; export its run again (exports omit weights over "
                f"{MAX_BYTES // 1_000_000} MB), or give the run instead"
            )
        self._bundle = bundle
        self._bytes = bundle.read(WEIGHTS_FILE)
        self._where = str(bundle.path / WEIGHTS_FILE)

    @property
    def config(self) -> RunConfig:
        """Configuration of the run."""
        return from_json(RunConfig, json.loads(self._header["run"]), self._where, TrainingError)

    @property
    def total_seconds(self) -> float:
        """Seconds of training steps of the run and of those that it started from."""
        return float(self._header["seconds"])

    def network(self) -> Network:
        """The trained network, on the CPU and in eval mode."""
        network = self.config.build()
        try:
            in_graph = json.loads(self._header.get("in_graph", "[]"))
            network.load_state_dict(take_from_graph(load(self._bytes), in_graph, self._bundle.read("model.onnx")))
        except (SafetensorError, RuntimeError) as error:
            raise BundleIntegrityError(f"{self._where} cannot be loaded ({one_line(error)})") from error
        return network.eval()

    @property
    def _header(self) -> dict[str, str]:
        """Metadata of the safetensors file: a JSON header after its length in 8 bytes."""
        try:
            length = int.from_bytes(self._bytes[:8], "little")
            header: dict[str, str] = json.loads(self._bytes[8 : 8 + length])["__metadata__"]
        except (ValueError, KeyError) as error:
            raise BundleIntegrityError(f"{self._where} has no metadata; export its run again") from error
        return header
