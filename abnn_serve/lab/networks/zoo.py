"""A network by name: this project's own, torchvision's, timm's, or a user's `package.module:callable`."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from abnn_serve.errors import NetworkError, one_line
from abnn_serve.lab.networks.cifar import SmallResNet, ThinStemResNet, WideResNet
from abnn_serve.lab.networks.oudefend import with_oudefend
from abnn_serve.lab.networks.resnet3d import ResNeXt3d, SmallResNet3d
from abnn_serve.lab.networks.weights import download_state, read_state

_OWN: dict[str, Callable[..., nn.Module]] = {
    r"resnet9-w(\d+)(?:-(silu))?": SmallResNet,
    r"resnet9s-w(\d+)(?:-(silu))?": partial(SmallResNet, strided=True),
    r"resnet8s-w(\d+)(?:-(silu))?": partial(SmallResNet, strided=True, wide=False),
    r"resnet10-w(\d+)(?:-(silu))?": ThinStemResNet,
    r"cifar-(resnet\d+)": lambda classes, name: _cifar_resnet(name, classes),
    r"wrn-(\d+)-(\d+)": WideResNet,
    r"resnet3d7-w(\d+)": SmallResNet3d,
    r"resnext3d-(\d+)": ResNeXt3d,
    r"resnext3d-(\d+)-w(\d+)": ResNeXt3d,
}
EXAMPLES = (
    "resnet9-w64",
    "resnet10-w16",
    "cifar-resnet50",
    "wrn-28-10",
    "resnet18",
    "r3d_18",
    "resnext3d-101",
    "resnet3d7-w16",
    "timm:resnetv2_50",
    "package.module:callable",
)


def build_network(name: str, num_classes: int) -> nn.Module:
    """Build a classifier.

    Args:
        name: `resnet9-w64` (width 64), `resnet10-w16` (thin at full resolution, for CPUs), `resnet9s-w48` (with a
            strided stem), `resnet8s-w32` (with a layer and half the channels less), any of these with SiLU for ReLU
            (`resnet10-w16-silu`), `wrn-28-10` (depth, widening),
            `cifar-resnet50` (torchvision's with a stem for 32x32), a torchvision name (`resnet18`), a timm name
            (`timm:resnetv2_50`), or `package.module:callable`, called with `num_classes`. `NAME@WEIGHTS` loads weights:
            a local state-dict file, torchvision's tag (`DEFAULT`), or for timm `pretrained`; a head with another number
            of classes is left as initialised. For clips: `r3d_18`, `mc3_18`, `r2plus1d_18`, `s3d` (224 px and more),
            `resnet3d7-w16` (width 16, for CPUs), `resnext3d-101` (depth; `resnext3d-50-w64` has another width).
            `oudefend:NAME` is any ResNet with an OUDefend block.
        num_classes: length of the logits.

    Returns:
        a module: float (N, 3, H, W), or (N, 3, T, H, W), normalised pixels to logits (N, num_classes).

    Raises:
        NetworkError: no such network, or weights that do not fit.
    """
    name, _, weights = name.partition("@")
    network = _build(name, num_classes)
    if weights:
        _load_weights(network, name, weights)
    return network


def _build(name: str, num_classes: int) -> nn.Module:
    for pattern, build in _OWN.items():
        if match := re.fullmatch(pattern, name):
            given = [part for part in match.groups() if part is not None]
            return build(num_classes, *(int(part) if part.isdigit() else part for part in given))
    prefix, colon, rest = name.partition(":")
    if prefix == "oudefend" and colon:
        return with_oudefend(_build(rest, num_classes))
    if prefix == "timm" and colon:
        return _timm(rest, num_classes)
    if prefix == "torchvision" or not colon:
        return _torchvision(rest or name, num_classes)
    return _users(prefix, rest, num_classes)


def _timm(name: str, num_classes: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise NetworkError(f"timm has no network {name!r}{_closest(name, timm.list_models())}")
    network: nn.Module = timm.create_model(name, num_classes=num_classes)
    return network


def _torchvision(name: str, num_classes: int) -> nn.Module:
    import torchvision

    names = torchvision.models.list_models()
    if name not in names:
        hint = _closest(name, [*names, *EXAMPLES])
        raise NetworkError(f"no network named {name!r}{hint}; names look like {', '.join(EXAMPLES)}")
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    return network


def _cifar_resnet(name: str, num_classes: int) -> nn.Module:
    """Torchvision's ResNet with the stem of the CIFAR papers: 3x3, stride 1, not pooled."""
    network = _torchvision(name, num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _users(module: str, attribute: str, num_classes: int) -> nn.Module:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the script `abnn` does not look beside the user
    try:
        build = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise NetworkError(f"cannot import {attribute!r} from {module!r}: {error}") from error
    try:
        network = build(num_classes=num_classes)
    except Exception as error:  # a user's code may raise anything
        raise NetworkError(f"{module}:{attribute}(num_classes={num_classes}) failed: {one_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{module}:{attribute} returned {type(network).__name__}, expected a torch.nn.Module")
    return network


def _load_weights(network: nn.Module, name: str, weights: str) -> None:
    path = Path(weights)
    load_state(network, read_state(path) if path.is_file() else download_state(name, weights), name, weights)


def load_state(network: nn.Module, state: dict[str, torch.Tensor], name: str, weights: str) -> None:
    """Load `state`; a classifier with another number of classes keeps its initial weights.

    Raises:
        NetworkError: names or shapes differ; the message calls the network `name` and the state `weights`.
    """
    current = network.state_dict()
    missing, unknown = sorted(current.keys() - state.keys()), sorted(state.keys() - current.keys())
    if missing or unknown:
        raise NetworkError(
            f"{weights} does not fit {name}: {len(missing)} tensors missing (first: {next(iter(missing), '-')}), "
            f"{len(unknown)} unknown (first: {next(iter(unknown), '-')})"
        )
    different = {key for key, value in state.items() if value.shape != current[key].shape}
    # Only a classifier may differ, and only in its number of classes: the first axis of one module's weight and bias.
    heads = {key.rpartition(".")[0] for key in different}
    if len(heads) > 1 or any(state[key].shape[1:] != current[key].shape[1:] for key in different):
        raise NetworkError(
            f"{weights} does not fit {name}: {len(different)} tensors of other shapes (first: {min(different)})"
        )
    network.load_state_dict({key: current[key] if key in different else value for key, value in state.items()})


def _closest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
