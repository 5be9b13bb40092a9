"""Networks to train from: substitutes and teachers, from runs, bundles and names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.mixture import MixtureNetwork
from abnn_serve.lab.abnn.network import (
    KINETICS_MEAN,
    KINETICS_STD,
    AdaptiveNetwork,
    Network,
    PixelNetwork,
)
from abnn_serve.lab.abnn.surgery import without_taps
from abnn_serve.lab.training.run import NetworkConfig, RunConfig
from abnn_serve.lab.training.weights_file import BundledRun, open_run
from abnn_serve.spec import InputSpec


def network_by_name(name: str, classes: int, spec: InputSpec) -> NetworkConfig:
    """Config of a network given by name, with the normalisation that its published weights expect."""
    config = NetworkConfig(name=name, classes=classes)
    if spec.sampling:
        with torch.device("meta"):  # build without allocating weights
            if config.build().takes_clips:
                return replace(config, mean=KINETICS_MEAN, std=KINETICS_STD)
    return config


def load_substitute(source: str, spec: InputSpec) -> tuple[NetworkConfig, PixelNetwork]:
    """Config and trained network of a substitute: a finished run, a bundle (of an ABNN its substitute), or a name.

    A name should include weights, such as `resnet18@DEFAULT`.
    """
    if not Path(source).is_dir():
        config = network_by_name(source, 1000, spec)
        return config, config.build(weights=True).eval()
    run = open_run(source)
    network = run.network()
    if isinstance(network, MixtureNetwork):
        raise ConfigError(f"{source} is a mixture, expected a plain network as the substitute")
    if isinstance(network, AdaptiveNetwork) and isinstance(run, BundledRun):
        assert run.config.substitute is not None  # noqa: S101
        assert run.config.plan is not None  # noqa: S101
        plain = run.config.substitute.build()
        plain.load_state_dict(without_taps(network.substitute, run.config.plan))
        return run.config.substitute, plain.eval()
    if isinstance(network, AdaptiveNetwork):
        raise ConfigError(
            f"{source} is an ABNN run, expected a plain network as the substitute, trained with the recipe 'standard'"
        )
    own = run.config.input
    size = None if (own.height, own.width) == (spec.height, spec.width) else (own.height, own.width)
    network.size = size
    return replace(run.config.target, size=size), network


def load_teacher(source: str, config: RunConfig) -> Network:
    """Network of a finished run or bundle; ConfigError unless it has the input and classes of `config`.

    A teacher of features alone may have other classes, and be a name, such as `resnet18@DEFAULT`.
    """
    compares_predictions = bool(config.recipe.teacher_weight)
    if not (compares_predictions or Path(source).is_dir()):
        return load_substitute(source, config.input)[1]
    run = open_run(source)
    if run.config.input != config.input or (compares_predictions and run.config.labels != config.labels):
        raise ConfigError(
            f"the teacher {source} has a different input or different classes; "
            "train it with the recipe 'probe' on these classes first"
        )
    return run.network()


def training_seconds(source: Path) -> float | None:
    """Seconds of a substitute's training: of a run its own, of an ABNN bundle those recorded for its substitute."""
    run = open_run(source)
    if isinstance(run, BundledRun):
        return run.config.substitute_seconds if run.config.plan else run.total_seconds
    return run.seconds
