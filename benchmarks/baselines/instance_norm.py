"""A network with statistics of the sample, but no substitute: the control of the adaptive layer's linear form."""

from __future__ import annotations

import os

import torch
from torch import nn

from abnn_serve.lab.abnn.network import PixelNetwork
from abnn_serve.lab.training.run import Run


def with_instance_norm(network: nn.Module) -> nn.Module:
    """`network` with an InstanceNorm2d in the place of each BatchNorm2d, which keeps its weight and bias."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.InstanceNorm2d(child.num_features, eps=child.eps, affine=True)
            with torch.no_grad():
                norm.weight.copy_(child.weight)
                norm.bias.copy_(child.bias)
            setattr(network, name, norm)
        else:
            with_instance_norm(child)
    return network


def from_twin(num_classes: int) -> nn.Module:  # noqa: ARG001 - the twin has as many
    """The network of the run that the environment variable TWIN names, for `abnn train --target`."""
    network = Run(os.environ["TWIN"]).network()
    assert isinstance(network, PixelNetwork)  # noqa: S101
    return with_instance_norm(network.body)
