"""Networks from pixels to logits: a plain one that normalises its input, and the adaptive pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abnn_serve.arrays import batch_slices
from abnn_serve.errors import NetworkError, one_line
from abnn_serve.lab.abnn.adaptive_norm import AdaptiveNorm, StatisticsTap, over_frames
from abnn_serve.lab.abnn.mixture import MixtureNetwork

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)  # of torchvision's weights for videos
KINETICS_STD = (0.22803, 0.22145, 0.216989)

Statistics = list[tuple[Tensor, Tensor]]


class PixelNetwork(nn.Module):
    """A classifier whose input is pixels: float (N, 3, H, W), or (N, 3, T, H, W), in [0, 1] to logits (N, classes).

    Args:
        body: normalised pixels to logits.
        mean, std: of each channel, in units of [0, 1]; subtracted and divided by.
        size: (H, W) to resize the input to; None keeps its size. T never changes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def takes_clips(self) -> bool:
        """Whether the body has 3D convolutions."""
        return any(isinstance(module, nn.Conv3d) for module in self.body.modules())

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.mean, self.std
        if x.dim() == 5:
            mean, std = mean.unsqueeze(2), std.unsqueeze(2)
        if self.size is not None and tuple(x.shape[-2:]) != self.size:
            mode = "trilinear" if x.dim() == 5 else "bilinear"  # T does not change, so both resize frame by frame
            x = nn.functional.interpolate(x, [*x.shape[2:-2], *self.size], mode=mode, align_corners=False)
        logits: Tensor = self.body((x - mean) / std)
        return logits


class AdaptiveNetwork(nn.Module):
    """A target whose normalisation layers are driven by a frozen substitute that sees the same input.

    forward(x): float (N, 3, [T,] H, W) in [0, 1] to logits (N, classes). The substitute stays in eval mode and its
    weights get no gradient, but gradients pass through it to the input, so that attacks differentiate both networks.
    `surgery.apply_plan` builds it. With `framewise`, the substitute takes images: it sees each frame of a clip alone,
    and its statistics are combined over the frames.
    """

    def __init__(
        self,
        target: PixelNetwork,
        substitute: PixelNetwork,
        layers: Sequence[str],
        taps: Sequence[str],
        *,
        framewise: bool = False,
    ) -> None:
        super().__init__()
        self.framewise = framewise
        self.target = target
        self.substitute = substitute.requires_grad_(requires_grad=False)
        self._layers = tuple(layers)
        self._taps = tuple(taps)
        self.train(target.training)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Set the target's mode; the substitute stays in eval mode."""
        super().train(mode)
        self.substitute.eval()
        return self

    @property
    def adaptive_layers(self) -> list[AdaptiveNorm]:
        """The target's adaptive layers, in plan order."""
        return [self.target.body.get_submodule(name) for name in self._layers]  # type: ignore[misc]

    def statistics(self, x: Tensor) -> Statistics:
        """The substitute's (mean, standard deviation), each float32 (N, K), for each pair of the plan."""
        taps: list[StatisticsTap] = [self.substitute.body.get_submodule(name) for name in self._taps]  # type: ignore[misc]
        self.substitute(x.transpose(1, 2).flatten(0, 1) if self.framewise else x)
        statistics: Statistics = [tap.statistics for tap in taps]  # type: ignore[misc]
        for tap in taps:
            tap.statistics = None
        return [over_frames(pair, x.shape[2]) for pair in statistics] if self.framewise else statistics

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set every layer's standardisation from the substitute's statistics on clean `batches`, inputs of forward."""
        parts = [self.statistics(x) for x in batches]
        for index, layer in enumerate(self.adaptive_layers):
            if layer.form != "adain":
                codes = torch.cat([torch.cat(part[index], dim=1) for part in parts])
                layer.statistics_center.copy_(codes.mean(dim=0))
                layer.statistics_scale.copy_(codes.std(dim=0, correction=0).clamp_min(1e-3))

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Logits (N, classes); `statistics` replaces the substitute's, for threat models that detach them."""
        layers = self.adaptive_layers
        for layer, style in zip(layers, self.statistics(x) if statistics is None else statistics, strict=True):
            layer.style = style
        logits: Tensor = self.target(x)
        for layer in layers:
            layer.style = None
        return logits


def check_logits(network: nn.Module, x: Tensor, classes: int) -> None:
    """Run `network` once on x, (N, 3, [T,] H, W); raise NetworkError unless it returns float logits (N, classes)."""
    training = network.training
    try:
        with torch.no_grad():
            out = network.eval()(x)
    except Exception as error:  # a user's code may raise anything
        raise NetworkError(f"the network fails on an input of shape {tuple(x.shape)}: {one_line(error)}") from error
    finally:
        network.train(training)
    if not isinstance(out, Tensor):
        raise NetworkError(
            f"the network returned a {type(out).__name__}, expected one tensor of logits (N, {classes}); wrap it"
        )
    if tuple(out.shape) != (len(x), classes):
        raise NetworkError(f"the network returned shape {tuple(out.shape)}, expected logits {(len(x), classes)}")


def in_fast_layout(network: nn.Module) -> nn.Module:
    """Make 2D convolution weights channels-last, in place; gradients of 3D ones do not keep that layout."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return network


Network = PixelNetwork | AdaptiveNetwork | MixtureNetwork


class ServedNetwork(nn.Module):
    """A pixel network with the served input: uint8 or float32 (N, [T,] H, W, 3), 0 to 255, to float32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        floats = pixels.float()  # first, as TensorRT accepts uint8 only as the input of a Cast
        channels_first = floats.permute(0, floats.dim() - 1, *range(1, floats.dim() - 1))
        logits: Tensor = self.network(channels_first / 255.0)
        return logits.float()


def torch_logits(served: nn.Module, images: NDArray[np.uint8], batch_size: int = 100) -> NDArray[np.float32]:
    """Run a `ServedNetwork` in batches: uint8 (N, [T,] H, W, 3) to logits, float32 (N, classes)."""
    batch_size = max(1, batch_size // (images.shape[1] if images.ndim == 5 else 1))
    with torch.inference_mode():
        parts = [served(torch.from_numpy(images[b])).numpy() for b in batch_slices(len(images), batch_size)]
    return np.concatenate(parts)
