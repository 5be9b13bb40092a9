"""Part of each batch is normalised by the statistics from before the training (Liu et al., CVPR 2023, TWINS).

TWINS trains two networks that share all weights: one normalises its half of the batch by the population statistics of
the robust pre-training, the other by its batch. Only the second one is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.errors import NetworkError


class FixedStatistics:
    """A network that normalises the first part of each batch by the running statistics that it has now.

    Args:
        network: has layers with running statistics, and maps images (N, ...) to logits (N, classes).
        share: of each batch, in (0, 1).

    Raises:
        NetworkError: the network has no running statistics.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self._network, self._share = network, share
        norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
        self._norms = list(norms.values())
        self._statistics = {
            f"{name}.{key}": value.clone()
            for name, norm in norms.items()
            for key, value in norm.named_buffers()
            if key in ("running_mean", "running_var")
        }
        if not self._statistics:
            raise NetworkError(
                "fixed_statistics needs BatchNorm layers with running statistics, of an ABNN the conditional form"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Float (N, 3, [T,] H, W) to logits (N, classes); updates running statistics by the rest of the batch only."""
        count = max(1, int(self._share * len(images)))
        training = [norm for norm in self._norms if norm.training]
        for norm in training:
            norm.training = False
        try:
            fixed: Tensor = functional_call(self._network, self._statistics, (images[:count],))
        finally:
            for norm in training:
                norm.training = True
        return torch.cat([fixed, self._network(images[count:])])
