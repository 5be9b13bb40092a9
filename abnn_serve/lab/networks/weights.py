"""Weights of a network: read from a file, or downloaded from torchvision or timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from abnn_serve.errors import NetworkError, one_line

State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Read a state dict from a .safetensors file or a file that `torch.save` wrote.

    Raises:
        NetworkError: the file does not hold a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many classes
        raise NetworkError(f"{path} cannot be read as weights ({one_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise NetworkError(f"{path} does not hold a state dict, expected tensors by name, as in network.state_dict()")
    return state


def download_state(name: str, tag: str) -> State:
    """Download published weights, or take them from the cache of torchvision or timm.

    Args:
        name: a torchvision network, or `timm:NAME`.
        tag: torchvision's, such as `DEFAULT`; for timm, `pretrained`.

    Raises:
        NetworkError: no such weights, or the download failed; the message names the file and how to give it by path.
    """
    return _from_timm(name, tag) if name.startswith("timm:") else _from_torchvision(name, tag)


def _from_torchvision(name: str, tag: str) -> State:
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(name.removeprefix("torchvision:"))[tag]
    except (ValueError, KeyError) as error:
        raise NetworkError(f"{name}@{tag}: {tag!r} is neither a file nor a weights tag of torchvision") from error
    return _download(f"{name}@{tag}", weights.url, lambda: weights.get_state_dict(progress=True))


def _from_timm(name: str, tag: str) -> State:
    import timm

    if tag != "pretrained":
        raise NetworkError(f"{name}@{tag}: {tag!r} is neither a file nor 'pretrained'")
    model = name.removeprefix("timm:")
    config = timm.models.get_pretrained_cfg(model)
    if config is None or not config.has_weights:
        raise NetworkError(f"{name}@{tag}: timm has no weights for this network")
    url = f"{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}" if config.hf_hub_id else config.url
    return _download(f"{name}@{tag}", url, lambda: timm.create_model(model, pretrained=True).state_dict())


def _download(network: str, url: str, load: Callable[[], State]) -> State:
    try:
        return dict(load())
    except Exception as error:  # downloaders raise many classes
        name, file = network.partition("@")[0], url.rpartition("/")[2]
        raise NetworkError(
            f"{network}: cannot download {url} ({one_line(error)}); "
            f"download it elsewhere and give the file by path: {name}@/path/to/{file}"
        ) from error
