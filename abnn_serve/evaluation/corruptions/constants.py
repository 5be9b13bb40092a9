"""The strength of each corruption at severities 1 to 5: CIFAR-10-C's up to 32 px, ImageNet-C's above."""

from __future__ import annotations

from typing import Literal

from abnn_serve.errors import ConfigError

Constants = Literal["CIFAR-10-C", "ImageNet-C"]
Strength = tuple[float, ...]  # its meaning stands at the corruption's function

SEVERITIES = (1, 2, 3, 4, 5)

_CIFAR: dict[str, tuple[Strength, ...]] = {
    "gaussian noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom blur": ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "JPEG compression": ((80,), (65,), (58,), (50,), (40,)),
}

_SCALE = 244 / 224  # the authors write 244 where the image has 224 pixels

_IMAGENET: dict[str, tuple[Strength, ...]] = {
    "gaussian noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "defocus blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom blur": ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic transform": tuple(
        (alpha * _SCALE, sigma * _SCALE, shift * _SCALE)
        for alpha, sigma, shift in (
            (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02),
        )
    ),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "JPEG compression": ((25,), (18,), (15,), (10,), (7,)),
}  # fmt: skip

CORRUPTIONS = tuple(_CIFAR)


def constants_for(height: int, width: int) -> Constants:
    """CIFAR-10-C's for images of at most 32 px on both sides, else ImageNet-C's."""
    return "CIFAR-10-C" if max(height, width) <= 32 else "ImageNet-C"


def strength(name: str, severity: int, constants: Constants) -> Strength:
    """The constants of one corruption; ConfigError for an unknown name or severity."""
    if name not in CORRUPTIONS:
        raise ConfigError(f"no corruption named {name!r}, expected one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ConfigError(f"severity is {severity}, expected 1 to 5")
    return (_CIFAR if constants == "CIFAR-10-C" else _IMAGENET)[name][severity - 1]
