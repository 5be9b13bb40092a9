"""What goes into a model and what the numbers that come out mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from abnn_serve.errors import ConfigError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
Fit = Literal["crop", "stretch"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


def model_file(precision: str) -> str:
    """The graph's file name in a bundle; bf16 is arithmetic on the fp32 graph."""
    return "model.onnx" if precision in ("fp32", "bf16") else f"model.{precision}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How any picture becomes the model's input, uint8 (N, height, width, 3), RGB.

    Attributes:
        height, width: pixels, 1 to 4096.
        fit: `crop` scales the picture until it covers (height, width) and cuts the centre out; `stretch` ignores the
            aspect ratio.
        interpolation: Pillow's filter of that name; all of them average over the source area when shrinking, but
            `nearest`.
    """

    height: int
    width: int
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 4096:
                raise ConfigError(f"InputSpec.{name} is {value!r}, expected a whole number of pixels from 1 to 4096")
        for name, allowed in (("fit", get_args(Fit)), ("interpolation", get_args(Interpolation))):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"InputSpec.{name} is {value!r}, expected one of {', '.join(allowed)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one sample: (height, width, 3)."""
        return (self.height, self.width, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class names, in the order of the logits."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("Labels is empty, expected at least one class name")
        for index, name in enumerate(self.names):
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(f"label {index} is {name!r}, expected a name that is not blank")
        if len(set(self.names)) != len(self.names):
            repeated = next(name for name in self.names if self.names.count(name) > 1)
            raise ConfigError(f"label {repeated!r} appears more than once; class names must differ")

    def __len__(self) -> int:
        return len(self.names)
