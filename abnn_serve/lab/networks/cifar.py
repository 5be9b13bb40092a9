"""This project's own networks for 32x32 images: small ResNets and WideResNets."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from abnn_serve.errors import NetworkError

_LOGIT_SCALE = 1 / 8  # as Page 2018: without it, the large pooled maxima make a step of the classifier overshoot
ACTIVATIONS: dict[str, type[nn.ReLU | nn.SiLU]] = {"relu": nn.ReLU, "silu": nn.SiLU}


def conv_bn_act(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, activation: str = "relu") -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation; padded so that stride 1 keeps the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
        ACTIVATIONS[activation](inplace=True),
    )


def conv_pool_bn_act(inputs: int, outputs: int, activation: str = "relu") -> nn.Sequential:
    """3x3 convolution without bias, 2x2 max pooling, BatchNorm, activation; pooled first to save arithmetic."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        ACTIVATIONS[activation](inplace=True),
    )


class Residual(nn.Module):
    """x + f(x), where f is two convolutions, each with BatchNorm and activation."""

    def __init__(self, width: int, activation: str = "relu") -> None:
        super().__init__()
        self.body = nn.Sequential(*(conv_bn_act(width, width, activation=activation) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.body(x)
        return x + change


class SmallResNet(nn.Module):
    """The nine-layer ResNet of the DAWNBench CIFAR-10 entries (Page 2018), and two cheaper variants.

    Args:
        width: channels of the first convolution; each stage doubles it.
        strided: the first convolution is 4x4 with stride 2, and the last stage has no pooling; for CPUs.
        wide: nine layers, the last stage with 8 times `width` channels; else eight layers and 4 times.
        activation: `relu`, or `silu`, which is smooth (Xie et al. 2020).
    """

    def __init__(
        self, num_classes: int, width: int = 64, activation: str = "relu", *, strided: bool = False, wide: bool = True
    ) -> None:
        super().__init__()
        conv, residual = partial(conv_bn_act, activation=activation), partial(Residual, activation=activation)
        layers: list[nn.Module] = [
            conv(3, width, kernel=4, stride=2) if strided else conv(3, width),
            conv(width, 2 * width),
            nn.MaxPool2d(2),
            residual(2 * width),
            conv(2 * width, 4 * width),
            nn.MaxPool2d(2),
        ]
        if wide:
            layers.append(conv(4 * width, 8 * width))
        if wide and not strided:
            layers.append(nn.MaxPool2d(2))
        last = 8 * width if wide else 4 * width
        self.features = nn.Sequential(*layers, residual(last), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)) * _LOGIT_SCALE
        return logits


class ThinStemResNet(nn.Module):
    """A ten-layer ResNet for CPUs: its full-resolution layers are narrow, so most arithmetic is at 8x8 and 4x4.

    It ends with a residual block: in an adaptive network, instance statistics erase a channel's mean, and only the skip
    connection carries the mean to the pooling.

    Args:
        width: channels of the first convolution; the last block has 12 times as many.
        activation: `relu`, or `silu`, which is smooth (Xie et al. 2020).
    """

    def __init__(self, num_classes: int, width: int = 16, activation: str = "relu") -> None:
        super().__init__()
        conv, residual = partial(conv_bn_act, activation=activation), partial(Residual, activation=activation)
        pooled = partial(conv_pool_bn_act, activation=activation)
        self.features = nn.Sequential(
            conv(3, width),
            pooled(width, 3 * width),
            pooled(3 * width, 4 * width),
            residual(4 * width),
            pooled(4 * width, 8 * width),
            conv(8 * width, 12 * width),
            residual(12 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(12 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)) * _LOGIT_SCALE
        return logits


class _WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return skip + residual


class WideResNet(nn.Module):
    """WideResNet with pre-activation blocks (Zagoruyko & Komodakis, BMVC 2016); `depth` is 6n + 4."""

    def __init__(self, num_classes: int, depth: int = 28, widen: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise NetworkError(f"WideResNet depth is {depth}, expected 6n + 4 (10, 16, 28, ...)")
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
        for stage in range(3):
            for block in range(blocks):
                first = block == 0
                inputs = widths[stage] if first else widths[stage + 1]
                layers.append(_WideBlock(inputs, widths[stage + 1], 2 if first and stage > 0 else 1))
        self.features = nn.Sequential(
            *layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits
