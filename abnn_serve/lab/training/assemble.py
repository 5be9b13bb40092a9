"""Build the configuration and the network of a requested run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.network import (
    AdaptiveNetwork,
    Network,
    PixelNetwork,
    check_logits,
)
from abnn_serve.lab.abnn.plan import plan_pairs
from abnn_serve.lab.abnn.surgery import apply_plan
from abnn_serve.lab.data.dataset import ImageData
from abnn_serve.lab.data.load import agree
from abnn_serve.lab.networks.zoo import load_state
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.pretrained import load_substitute, network_by_name, training_seconds
from abnn_serve.lab.training.request import TrainRequest
from abnn_serve.lab.training.run import NetworkConfig, Run, RunConfig
from abnn_serve.lab.training.weights_file import open_run

_CALIBRATION = 2048  # images for standardising the substitute's statistics


def assemble(
    request: TrainRequest, data: ImageData, val: ImageData, *, device: str = "cpu"
) -> tuple[RunConfig, Network]:
    """Configuration of the requested run, and its network before the first step, on the CPU.

    `device` computes the calibration statistics of a new adaptive network.
    """
    init = open_run(request.init) if request.init else None
    if init and init.config.mixture is not None:
        raise ConfigError(f"{init.path} is a mixture; train its halves and mix them again")
    if init and init.config.plan:
        return _continue(request, init, data, val)
    target_config, target = _target(request, init, len(data.classes))
    example = to_input(data.images[:2])
    check_logits(target, example, len(data.classes))
    if request.recipe.adaptive and request.substitute is None:
        raise ConfigError(
            f"recipe {request.recipe.name!r} needs --substitute, a network's name or a finished run: {request.init} "
            "is a plain run and has none"
        )
    config = RunConfig(
        target=target_config,
        substitute=None,
        plan=None,
        input=request.input,
        labels=data.classes,
        **_origin(request, data, val, init),
    )
    if request.substitute is None:
        return config, target
    substitute_config, substitute = load_substitute(request.substitute, request.input)
    plan = request.plan or plan_pairs(target, substitute, example, form=request.form or "linear", rank=request.rank)
    network = apply_plan(target, substitute, plan)
    _calibrate(network, data, device)
    source = Path(request.substitute)
    return replace(
        config,
        substitute=substitute_config,
        plan=plan,
        substitute_source=source.name,
        substitute_seconds=training_seconds(source) if source.is_dir() else None,
    ), network


def _target(request: TrainRequest, init: Run | None, classes: int) -> tuple[NetworkConfig, PixelNetwork]:
    if init is None:
        name = f"oudefend:{request.target}" if request.recipe.restored else str(request.target)
        config = network_by_name(name, classes, request.input)
        return config, config.build(weights=True)
    config = replace(init.config.target, classes=classes)
    if request.target not in (None, config.name):
        raise ConfigError(f"--target is {request.target}, but {init.path} holds a {config.name}; leave --target out")
    if request.recipe.restored and not config.name.startswith("oudefend:"):
        raise ConfigError(
            f"{init.path} has no OUDefend block; start the recipe {request.recipe.name!r} with --target NAME"
        )
    target, trained = config.build(), init.network()
    load_state(target, trained.state_dict(), config.name, str(init.path))
    return config, target


def _continue(request: TrainRequest, init: Run, data: ImageData, val: ImageData) -> tuple[RunConfig, Network]:
    """Configuration and network for training a finished ABNN run further, with its own target, substitute and plan."""
    before = init.config
    if not request.recipe.adaptive:
        raise ConfigError(
            f"{init.path} is an ABNN run, but the recipe {request.recipe.name!r} trains plain networks"
            "; use 'abnn' or 'abnn-at'"
        )
    options = request.adaptive_options
    if options or request.target not in (None, before.target.name):
        raise ConfigError(
            f"{init.path} is an ABNN run with its own target, substitute and plan; "
            f"leave out {', '.join(options) or '--target'}"
        )
    if before.input != request.input:
        raise ConfigError(
            f"{init.path} was trained at {before.input.shape}, but the requested input is {request.input.shape}; "
            "use the same --size"
        )
    origin = _origin(request, agree(before.labels, data), val, init)
    return replace(before, **origin), init.network().train()


def _origin(request: TrainRequest, data: ImageData, val: ImageData, init: Run | None) -> dict[str, Any]:
    """The fields of a RunConfig that say what a run is trained from."""
    return {
        "recipe": request.recipe,
        "seed": request.seed,
        "data": data.name,
        "data_digest": data.digest,
        "data_count": len(data),
        "val": val.name,
        "val_digest": val.digest,
        "init_source": init.path.name if init else None,
        "init_seconds": init.total_seconds if init else None,
    }


def _calibrate(network: AdaptiveNetwork, data: ImageData, device: str) -> None:
    images, size = data.spread(_CALIBRATION).images, data.chunk(256)
    network.to(device).calibrate(to_input(images[batch], device) for batch in batch_slices(len(images), size))
    network.to("cpu")
