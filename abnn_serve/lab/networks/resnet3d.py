"""This project's networks for clips: a small 3D ResNet for CPUs, and the 3D ResNeXt of the OUDefend paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abnn_serve.errors import NetworkError

_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_CARDINALITY = 32


def _conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int | tuple[int, int, int] = 1, groups: int = 1
) -> nn.Sequential:
    """3D convolution without bias, and BatchNorm; padded so that stride 1 keeps the size."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm3d(outputs),
    )


def _conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int | tuple[int, int, int] = 1) -> nn.Sequential:
    return nn.Sequential(_conv_bn(inputs, outputs, kernel, stride), nn.ReLU(inplace=True))


class Residual3d(nn.Module):
    """x + f(x), f being two 3D convolutions, each with BatchNorm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv_bn_relu(width, width), _conv_bn_relu(width, width))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.body(x)
        return x + change


class SmallResNet3d(nn.Module):
    """A seven-layer 3D ResNet for CPUs: little arithmetic at full resolution; the last block is residual.

    Args:
        width: channels of the first convolution; the last block has 4 times as many.
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv_bn_relu(3, width, stride=(1, 2, 2)),
            _conv_bn_relu(width, 2 * width, stride=(1, 2, 2)),
            Residual3d(2 * width),
            _conv_bn_relu(2 * width, 4 * width, stride=2),
            Residual3d(4 * width),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


class _ResNeXtBlock(nn.Module):
    expansion = 2

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.body = nn.Sequential(
            _conv_bn(inputs, width, 1),
            nn.ReLU(inplace=True),
            _conv_bn(width, width, 3, stride, _CARDINALITY),
            nn.ReLU(inplace=True),
            _conv_bn(width, outputs, 1),
        )
        self.shortcut = None if stride == 1 and inputs == outputs else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        return torch.relu(skip + self.body(x))


class ResNeXt3d(nn.Module):
    """3D ResNeXt, cardinality 32 (Hara, Kataoka & Satoh, CVPR 2018).

    Args:
        num_classes: length of the logits.
        depth: 50, 101 or 152.
        width: channels in the first stage's blocks, a multiple of 32; the authors use 128.
    """

    def __init__(self, num_classes: int, depth: int = 101, width: int = 128) -> None:
        super().__init__()
        if depth not in _DEPTHS or width < _CARDINALITY or width % _CARDINALITY:
            raise NetworkError(
                f"a 3D ResNeXt has depth {depth} and width {width}, expected depth {', '.join(map(str, _DEPTHS))} and "
                f"a multiple of {_CARDINALITY} as width"
            )
        self.stem = nn.Sequential(
            nn.Conv3d(3, width // 2, 7, (1, 2, 2), 3, bias=False),
            nn.BatchNorm3d(width // 2),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
        )
        inputs = width // 2
        for stage, blocks in enumerate(_DEPTHS[depth]):
            layers = []
            for block in range(blocks):
                layers.append(_ResNeXtBlock(inputs, width << stage, 2 if stage and not block else 1))
                inputs = (width << stage) * _ResNeXtBlock.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(self.pool(x))
        return logits
