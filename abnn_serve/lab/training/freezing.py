"""Freeze all of a network except the part that a recipe trains."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.errors import NetworkError
from abnn_serve.lab.abnn.adaptive_norm import AdaptiveNorm
from abnn_serve.lab.abnn.network import AdaptiveNetwork, Network
from abnn_serve.lab.training.recipe import Trained


def freeze(network: Network, trained: Trained) -> None:
    """Disable gradients outside the trained part of the target; NetworkError if it has no such part."""
    if trained == "all":
        return
    network.requires_grad_(requires_grad=False)
    for module in _trained_modules(network, trained):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = True


def set_training_mode(network: Network, trained: Trained) -> None:
    """Put the trained part in training mode and the rest in eval mode, which keeps its buffers constant."""
    network.train(trained == "all")
    if trained != "all":
        for module in _trained_modules(network, trained):
            module.train()


def _trained_modules(network: Network, trained: Trained) -> list[nn.Module]:
    body = _body(network)
    norms = [module for module in body.modules() if isinstance(module, (_BatchNorm, AdaptiveNorm))]
    if "norm" in trained and not norms:
        raise NetworkError(f"{type(body).__name__} has no normalisation layer to train")
    return (norms if "norm" in trained else []) + ([head_of(network)] if "head" in trained else [])


def head_of(network: Network) -> nn.Module:
    """The last linear layer, of an ABNN its target's; NetworkError if there is none."""
    body = _body(network)
    linear = [module for module in body.modules() if isinstance(module, nn.Linear) or _is_pointwise(module)]
    if not linear:
        raise NetworkError(f"{type(body).__name__} has no linear layer, expected one as its head")
    return linear[-1]


def _is_pointwise(module: nn.Module) -> bool:
    """Whether this is a 1x1 convolution with a bias, the classifier of S3D."""
    return isinstance(module, (nn.Conv2d, nn.Conv3d)) and set(module.kernel_size) == {1} and module.bias is not None


def _body(network: Network) -> nn.Module:
    body = (network.target if isinstance(network, AdaptiveNetwork) else network).body
    assert isinstance(body, nn.Module)  # noqa: S101
    return body
