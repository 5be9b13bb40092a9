"""What goes into a model and what the numbers that come out mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from abnn_serve.codec import OMITTED_IF_NONE
from abnn_serve.errors import ConfigError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
Fit = Literal["crop", "stretch"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Placement = Literal["spread", "windows"]
Modality = Literal["image", "video"]


def model_file(precision: str) -> str:
    """The graph's file name in a bundle; bf16 is arithmetic on the fp32 graph."""
    return "model.onnx" if precision in ("fp32", "bf16") else f"model.{precision}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames of a video make its clips. A video that is too short holds its last frame.

    Attributes:
        frames: of one clip, 1 to 512.
        stride: step from one frame of a clip to the next, 1 to 512.
        clips: most clips taken from one video, 1 to 100; their scores are averaged.
        placement: `spread` puts the clips evenly from the first frame to the last, a single one in the middle;
            `windows` cuts the video into clips that do not overlap, and takes evenly spaced ones of too many.
        crops: of each clip: 1, the centre; or 3, along the longer side.
        fps: frames a second that the video is brought to first, by the nearest in time; None takes frames as they come.
    """

    frames: int
    stride: int = 1
    clips: int = 1
    placement: Placement = "spread"
    crops: Literal[1, 3] = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("frames", 512), ("stride", 512), ("clips", 100)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"Sampling.{name} is {value!r}, expected a whole number from 1 to {most}")
        if self.placement not in get_args(Placement):
            raise ConfigError(f"Sampling.placement is {self.placement!r}, expected {' or '.join(get_args(Placement))}")
        if self.crops not in (1, 3):
            raise ConfigError(f"Sampling.crops is {self.crops!r}, expected 1 or 3")
        if self.fps is not None and not 0.1 <= self.fps <= 240:
            raise ConfigError(f"Sampling.fps is {self.fps!r}, expected 0.1 to 240 frames a second, or none")

    @property
    def span(self) -> int:
        """Frames from the first of a clip to its last, both counted."""
        return (self.frames - 1) * self.stride + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How any picture or video becomes the model's input, RGB: uint8 (N, height, width, 3) or (N, T, height, width, 3).

    Attributes:
        height, width: pixels, 1 to 4096.
        fit: `crop` scales the picture until it covers (height, width) and cuts the centre out; `stretch` ignores the
            aspect ratio.
        interpolation: Pillow's filter of that name; all of them average over the source area when shrinking, but
            `nearest`. For video swscale's, `box` being its area filter.
        sampling: of videos; None for a model of pictures.
    """

    height: int
    width: int
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    sampling: Sampling | None = field(default=None, metadata=OMITTED_IF_NONE)

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 4096:
                raise ConfigError(f"InputSpec.{name} is {value!r}, expected a whole number of pixels from 1 to 4096")
        for name, allowed in (("fit", get_args(Fit)), ("interpolation", get_args(Interpolation))):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"InputSpec.{name} is {value!r}, expected one of {', '.join(allowed)}")
        if self.sampling and self.sampling.crops > 1 and self.fit != "crop":
            raise ConfigError(f"InputSpec.fit is {self.fit!r} with {self.sampling.crops} crops, expected crop")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (height, width, 3), or of one clip: (T, height, width, 3)."""
        size = (self.height, self.width, 3)
        return (self.sampling.frames, *size) if self.sampling else size

    @property
    def modality(self) -> Modality:
        """What goes in; also the name of the graph's input."""
        return "video" if self.sampling else "image"


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
