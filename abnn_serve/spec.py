"""A model's input and labels."""

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
    """File name of a precision's graph in a bundle; bf16 runs the fp32 graph."""
    return "model.onnx" if precision in ("fp32", "bf16") else f"model.{precision}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to take clips from a video. In a video that is too short, the last frame repeats.

    Attributes:
        frames: frames per clip, 1 to 512.
        stride: step between consecutive frames of a clip, 1 to 512.
        clips: maximum number of clips per video, 1 to 100; their probabilities are averaged.
        placement: `spread` spaces the clips evenly over the video, and puts a single clip in the middle; `windows`
            divides the video into adjacent clips and, if there are more than `clips`, takes evenly spaced ones.
        crops: crops per clip: 1 takes the centre, 3 are spaced along the longer side.
        fps: frame rate to which the video is first resampled (nearest frame), 0.1 to 240; None keeps all frames.
    """

    frames: int
    stride: int = 1
    clips: int = 1
    placement: Placement = "spread"
    crops: Literal[1, 3] = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        for name, maximum in (("frames", 512), ("stride", 512), ("clips", 100)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= maximum:
                raise ConfigError(f"Sampling.{name} is {value!r}, expected a whole number from 1 to {maximum}")
        if self.placement not in get_args(Placement):
            raise ConfigError(f"Sampling.placement is {self.placement!r}, expected {' or '.join(get_args(Placement))}")
        if self.crops not in (1, 3):
            raise ConfigError(f"Sampling.crops is {self.crops!r}, expected 1 or 3")
        if self.fps is not None and not 0.1 <= self.fps <= 240:
            raise ConfigError(f"Sampling.fps is {self.fps!r}, expected 0.1 to 240 frames per second, or None")

    @property
    def span(self) -> int:
        """Number of frames from the first to the last frame of a clip, inclusive."""
        return (self.frames - 1) * self.stride + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """A model's input, RGB: images, uint8 (N, height, width, 3), or clips, uint8 (N, T, height, width, 3).

    Attributes:
        height, width: size in pixels, 1 to 4096.
        fit: `crop` scales the image to cover (height, width) and crops the centre; `stretch` ignores the aspect ratio.
        interpolation: Pillow's filter of this name for images, swscale's for videos, where `box` is its area filter.
            All filters except `nearest` are antialiased when shrinking.
        sampling: how to take clips from videos; None for image models.
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
            raise ConfigError(f"InputSpec.fit is {self.fit!r} with {self.sampling.crops} crops, expected 'crop'")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (height, width, 3), or of one clip: (T, height, width, 3)."""
        size = (self.height, self.width, 3)
        return (self.sampling.frames, *size) if self.sampling else size

    @property
    def modality(self) -> Modality:
        """`image` or `video`; also the name of the graph's input."""
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
                raise ConfigError(f"label {index} is {name!r}, expected a non-blank string")
        if len(set(self.names)) != len(self.names):
            repeated = next(name for name in self.names if self.names.count(name) > 1)
            raise ConfigError(f"label {repeated!r} appears more than once; class names must differ")

    def __len__(self) -> int:
        return len(self.names)
