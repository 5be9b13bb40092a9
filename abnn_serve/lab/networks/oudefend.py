"""OUDefend: a feature-restoration block (Lo, Valanarasu & Patel, ICIP 2021).

    x + fuse([over(x), under(x)])

`over` works on a finer grid than the features (over-complete: small receptive field, local detail), `under` on a
coarser one (under-complete: wide context). Unlike in the paper, the block is residual and `fuse` starts at zero: the
block starts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abnn_serve.errors import NetworkError
from abnn_serve.lab.networks.cifar import Residual
from abnn_serve.lab.networks.resnet3d import Residual3d


class OUDefend(nn.Module):
    """Features (N, C, *S) to restored features of the same shape; the grids differ in H and W, not in T.

    Args:
        channels: C.
        dimensions: 2 for images, 3 for clips.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv3d if dimensions == 3 else nn.Conv2d
        hidden = max(channels // 2, 1)
        self.over_in, self.under_in = conv(channels, hidden, 3, padding=1), conv(channels, hidden, 3, padding=1)
        self.over_out, self.under_out = conv(hidden, hidden, 3, padding=1), conv(hidden, hidden, 3, padding=1)
        self.fuse = conv(2 * hidden, channels, 1)
        nn.init.zeros_(self.fuse.weight)
        if self.fuse.bias is not None:
            nn.init.zeros_(self.fuse.bias)

    def forward(self, x: Tensor) -> Tensor:
        size = list(x.shape[2:])
        over = self.over_out(_resize(torch.relu(self.over_in(x)), [*size[:-2], 2 * size[-2], 2 * size[-1]]))
        under = self.under_out(_halve(torch.relu(self.under_in(x))))
        both = torch.cat([_halve(torch.relu(over)), _resize(torch.relu(under), size)], dim=1)
        restored: Tensor = self.fuse(both)
        return x + restored


def _resize(x: Tensor, size: list[int]) -> Tensor:
    mode = "trilinear" if x.dim() == 5 else "bilinear"
    return nn.functional.interpolate(x, size, mode=mode, align_corners=False)


def _halve(x: Tensor) -> Tensor:
    if x.dim() == 5:
        return nn.functional.max_pool3d(x, (1, 2, 2), ceil_mode=True)
    return nn.functional.max_pool2d(x, 2, ceil_mode=True)


def with_oudefend(network: nn.Module) -> nn.Module:
    """Insert an OUDefend block after the network's first residual stage, in place.

    Raises:
        NetworkError: the network has neither a `layer1`, as torchvision's ResNets, nor residual blocks of this project.
    """
    parents = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
    stage = next((m for m in network.modules() if isinstance(m, Residual | Residual3d)), None)
    stage = getattr(network, "layer1", stage)
    norms = [m for m in stage.modules() if isinstance(m, _BatchNorm)] if isinstance(stage, nn.Module) else []
    if not isinstance(stage, nn.Module) or not norms:
        raise NetworkError(
            f"{type(network).__name__} has no first residual stage for OUDefend; use a ResNet such as r3d_18"
        )
    parent, name = parents[stage]
    dimensions = 3 if any(isinstance(m, nn.Conv3d) for m in stage.modules()) else 2
    setattr(parent, name, nn.Sequential(stage, OUDefend(norms[-1].num_features, dimensions)))
    return network
