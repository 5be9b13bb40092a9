"""Converts decoded frames to a model's input: upright, square pixels, RGB, scaled and cropped."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation as Filter
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from abnn_serve.spec import InputSpec, Interpolation, Sampling

Pixels = NDArray[np.uint8]

_FILTERS: dict[Interpolation, Filter] = {
    "nearest": Filter.POINT,
    "bilinear": Filter.BILINEAR,
    "bicubic": Filter.BICUBIC,
    "lanczos": Filter.LANCZOS,
    "box": Filter.AREA,
}
_EXACT = Filter.ACCURATE_RND | Filter.FULL_CHR_H_INT | Filter.BITEXACT  # the same pixels on all processors


class Fitter:
    """Converts the frames of one video.

    Args:
        spec: the model's input.
        sampling: number of crops.
        aspect: width of a pixel divided by its height.
    """

    def __init__(self, spec: InputSpec, sampling: Sampling, aspect: float) -> None:
        self._spec, self._crops, self._aspect = spec, sampling.crops, aspect
        self._reformatter = VideoReformatter()

    def fit(self, frame: VideoFrame) -> Pixels:
        """Convert one frame to uint8 (crops, H, W, 3)."""
        turns = round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0
        width, height = max(frame.width * self._aspect, 1.0), float(frame.height)
        if turns % 2:
            width, height = height, width
        width, height = self._scaled_size(width, height)
        upright = np.rot90(self._scale(frame, *((height, width) if turns % 2 else (width, height))), turns)
        return np.stack(
            [upright[y : y + self._spec.height, x : x + self._spec.width] for y, x in self._crop_corners(upright)]
        )

    def _scaled_size(self, width: float, height: float) -> tuple[int, int]:
        """The input's size, or for `crop` the smallest size of the same aspect ratio that covers it."""
        spec = self._spec
        if spec.fit == "stretch":
            return spec.width, spec.height
        scale = max(spec.width / width, spec.height / height)
        # limits the scaled frame of extreme aspect ratios, most of which is cropped anyway
        return (
            min(max(spec.width, round(width * scale)), 16 * spec.width),
            min(max(spec.height, round(height * scale)), 16 * spec.height),
        )

    def _scale(self, frame: VideoFrame, width: int, height: int) -> Pixels:
        has_alpha = len(frame.format.components) in (2, 4)
        pixels = self._reformatter.reformat(
            frame,
            width,
            height,
            format="rgba" if has_alpha else "rgb24",
            interpolation=_FILTERS[self._spec.interpolation] | _EXACT,
            src_color_range=frame.color_range,
            threads=1,
        ).to_ndarray()
        if not has_alpha:
            return np.asarray(pixels, np.uint8)
        premultiplied = pixels[..., :3].astype(np.uint16) * pixels[..., 3:]
        return ((premultiplied + 127) // 255).astype(np.uint8)

    def _crop_corners(self, upright: Pixels) -> list[tuple[int, int]]:
        max_y, max_x = upright.shape[0] - self._spec.height, upright.shape[1] - self._spec.width
        if self._crops == 1:
            return [(max_y // 2, max_x // 2)]
        return [(max_y * i // 2, max_x * i // 2) for i in range(3)]
