"""How pixels become the input of a classifier: a mean and a standard deviation by name, as text, or from JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abnn_serve.codec import from_json
from abnn_serve.errors import ConfigError
from abnn_serve.lab.abnn.network import IMAGENET_MEAN, IMAGENET_STD

_EXPECTED = "imagenet, cifar10, none, 0-255, mean=R,G,B,std=R,G,B or a JSON file with mean and std"
_NUMBERS = r"([0-9.]+(?:,[0-9.]+){0,2})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Input is (pixel - mean) / std, with pixels in [0, 1]; three values each, RGB."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in self.mean) or not all(1e-4 <= value <= 10 for value in self.std):
            raise ConfigError(
                f"preprocessing has mean {self.mean} and std {self.std}, expected means from 0 to 1 and std from "
                "0.0001 to 10, in units of [0, 1] pixels"
            )

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, 3) to the model's values, float32 of the same shape."""
        mean, std = (np.asarray(part, np.float32) for part in (self.mean, self.std))
        return ((pixels.astype(np.float32) / 255 - mean) / std).astype(np.float32, copy=False)


_NAMED = {
    "imagenet": Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "cifar10": Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "none": Preprocess(),
    "0-255": Preprocess(std=(1 / 255, 1 / 255, 1 / 255)),
}


def read_preprocess(text: str) -> Preprocess:
    """Parse `imagenet`, `cifar10`, `none` (pixels in [0, 1]), `0-255`, `mean=..,std=..`, or the name of a JSON file."""
    if text in _NAMED:
        return _NAMED[text]
    if match := re.fullmatch(f"mean={_NUMBERS},std={_NUMBERS}", text):
        try:
            mean, std = (_three([float(part) for part in group.split(",")]) for group in match.groups())
        except ValueError:
            raise ConfigError(f"--preprocess is {text!r}, expected {_EXPECTED}") from None
        return Preprocess(mean=mean, std=std)
    if not text.endswith(".json"):
        raise ConfigError(f"--preprocess is {text!r}, expected {_EXPECTED}")
    try:
        value = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--preprocess {text} is not a readable JSON file ({error})") from None
    return from_json(Preprocess, value, text, ConfigError)


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue
