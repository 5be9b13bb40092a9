"""Networks of a user, named as `tests.networks:NAME`; some of them must be refused."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


def _features(width: int = 8) -> list[nn.Module]:
    return [nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def _head(width: int, num_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]


def plain(num_classes: int) -> nn.Module:
    return nn.Sequential(*_features(), *_head(8, num_classes))


def without_batch_norm(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *_head(8, num_classes))


class _Tuple(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x


def returns_tuple(num_classes: int) -> nn.Module:
    return _Tuple(plain(num_classes))


class _NanLater(nn.Module):
    """Returns NaN logits in training from step 9 on: the third step of the second epoch, of six steps each."""

    steps: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        if self.training:
            self.steps += 1
            if int(self.steps) >= 9:
                return logits * float("nan")
        return logits


def nan_in_second_epoch(num_classes: int) -> nn.Module:
    return _NanLater(plain(num_classes))


class _Shared(nn.Module):
    """Uses one BatchNorm twice, under two names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.norm = nn.BatchNorm2d(8)
        self.alias = self.norm
        self.head = nn.Sequential(*_head(8, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.alias(self.second(x)))
        logits: Tensor = self.head(x)
        return logits


def shared_norm(num_classes: int) -> nn.Module:
    return _Shared(num_classes)


def not_a_module(num_classes: int) -> str:
    return f"{num_classes} classes"


def needs_more(num_classes: int, depth: int) -> nn.Module:
    return plain(num_classes + depth)


class _NarrowResNet(ResNet):
    """torchvision's ResNet with an eighth of its channels: the same graph, exported in seconds."""

    def __init__(self, block: type[nn.Module], layers: list[int], num_classes: int) -> None:
        super().__init__(block, layers, num_classes)
        self.fc = nn.Linear(64 * block.expansion, num_classes)

    def _make_layer(self, block, planes: int, *options, **settings) -> nn.Sequential:
        if planes == 64:
            self.inplanes = 8
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        return super()._make_layer(block, planes // 8, *options, **settings)


def narrow_resnet18(num_classes: int) -> nn.Module:
    return _NarrowResNet(BasicBlock, [2, 2, 2, 2], num_classes)


def narrow_resnet50(num_classes: int) -> nn.Module:
    return _NarrowResNet(Bottleneck, [3, 4, 6, 3], num_classes)
