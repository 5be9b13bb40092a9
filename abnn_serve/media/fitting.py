"""A decoded frame to a model's input size: upright, square pixels, RGB, cropped."""

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
_EXACT = Filter.ACCURATE_RND | Filter.FULL_CHR_H_INT | Filter.BITEXACT  # the same pixels on every processor


class Fitter:
    """Scales frames while it converts them.

    Args:
        spec: the size to bring them to, and how.
        sampling: how many crops.
        aspect: width of a pixel over its height.
    """

    def __init__(self, spec: InputSpec, sampling: Sampling, aspect: float) -> None:
        self._spec, self._crops, self._aspect = spec, sampling.crops, aspect
        self._reformatter = VideoReformatter()

    def fit(self, frame: VideoFrame) -> Pixels:
        """uint8 (crops, H, W, 3), upright."""
        turns = round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0
        width, height = max(frame.width * self._aspect, 1.0), float(frame.height)
        if turns % 2:
            width, height = height, width
        width, height = self._covering(width, height)
        upright = np.rot90(self._scaled(frame, *((height, width) if turns % 2 else (width, height))), turns)
        return np.stack(
            [upright[y : y + self._spec.height, x : x + self._spec.width] for y, x in self._corners(upright)]
        )

    def _covering(self, width: float, height: float) -> tuple[int, int]:
        """The size to scale to: that of the input, or for `crop` the smallest of this aspect that covers it."""
        spec = self._spec
        if spec.fit == "stretch":
            return spec.width, spec.height
        scale = max(spec.width / width, spec.height / height)
        # an aspect of 1:1000 would be scaled to a frame of many megapixels, to be cut away again
        return (
            min(max(spec.width, round(width * scale)), 16 * spec.width),
            min(max(spec.height, round(height * scale)), 16 * spec.height),
        )

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> Pixels:
        alpha = len(frame.format.components) in (2, 4)
        pixels = self._reformatter.reformat(
            frame,
            width,
            height,
            format="rgba" if alpha else "rgb24",
            interpolation=_FILTERS[self._spec.interpolation] | _EXACT,
            src_color_range=frame.color_range,
            threads=1,
        ).to_ndarray()
        if not alpha:
            return np.asarray(pixels, np.uint8)
        weighted = pixels[..., :3].astype(np.uint16) * pixels[..., 3:]
        return ((weighted + 127) // 255).astype(np.uint8)

    def _corners(self, upright: Pixels) -> list[tuple[int, int]]:
        down, right = upright.shape[0] - self._spec.height, upright.shape[1] - self._spec.width
        if self._crops == 1:
            return [(down // 2, right // 2)]
        return [(down * part // 2, right * part // 2) for part in range(3)]
