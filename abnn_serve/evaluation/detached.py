"""Networks without the gradient through their substitute: what a graybox attacker differentiates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abnn_serve.lab.abnn.mixture import MixtureNetwork
from abnn_serve.lab.abnn.network import AdaptiveNetwork


class DetachedStatistics(nn.Module):
    """An adaptive network with no gradient through its substitute: the model that a graybox attacker differentiates."""

    def __init__(self, network: AdaptiveNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        with torch.no_grad():
            statistics = self.network.statistics(x)
        return self.network(x, statistics)  # type: ignore[no-any-return]


def has_substitute(network: nn.Module) -> bool:
    """Whether a part of the network is an ABNN."""
    return any(isinstance(module, AdaptiveNetwork) for module in network.modules())


def detached(network: nn.Module) -> nn.Module:
    """The network, or a mixture's halves, without gradients through substitutes."""
    if isinstance(network, AdaptiveNetwork):
        return DetachedStatistics(network)
    if isinstance(network, MixtureNetwork):
        return MixtureNetwork(detached(network.robust), detached(network.clean), network.rule)
    return network
