"""How an input holds images: its layout, height and width."""

from __future__ import annotations

from typing import Any, Literal

from abnn_serve.errors import ConfigError

Layout = Literal["NCHW", "NHWC", "flat"]  # `flat` is (N, height * width * 3), rows first and colours last

_SIDES = range(16, 513)


def image_layout(
    model: str, name: str, shape: tuple[Any, ...], size: tuple[int, int] | None
) -> tuple[Layout, tuple[int, int]]:
    """How an input holds images, and their height and width in pixels.

    Args:
        model: named in errors.
        name: of the input.
        shape: of the input with its batch; a side that is left open is no positive integer.
        size: height and width, where the shape leaves them open.

    Raises:
        ConfigError: the input is no image, or its size is open and not given.
    """
    shown = f"({', '.join(map(str, shape))})"
    layout: Layout
    if len(shape) == 4 and shape[1] == 3:
        layout, sides = "NCHW", shape[2:]
    elif len(shape) == 4 and shape[3] == 3:
        layout, sides = "NHWC", shape[1:3]
    elif len(shape) == 2 and (size or _square(shape[1])):
        layout, sides = "flat", size or (_square(shape[1]),) * 2
    else:
        raise ConfigError(
            f"{model} has the input {name} of shape {shown}, expected RGB images (N, 3, H, W) or (N, H, W, 3)"
        )
    height, width = (
        side if isinstance(side, int) and side > 0 else given
        for side, given in zip(sides, size or (None, None), strict=True)
    )
    if height is None or width is None:
        raise ConfigError(f"{model} leaves its input size open, {shown}; give it with --size, such as --size 224")
    if size and size != (height, width):
        raise ConfigError(f"{model} takes images of {height}x{width}, but --size is {size[0]}x{size[1]}; omit --size")
    if height not in _SIDES or width not in _SIDES:
        raise ConfigError(f"{model} takes images of {height}x{width}, expected 16 to 512 pixels a side")
    return layout, (height, width)


def _square(features: Any) -> int | None:
    """Side of a square RGB image of so many values; None if there is none."""
    side = round((features / 3) ** 0.5) if isinstance(features, int) and features > 0 else 0
    return side if side and side * side * 3 == features else None
