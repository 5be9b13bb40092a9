"""What decoding one file may take, from its header and the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from abnn_serve.media.headers.header import Header
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.spec import InputSpec

SMALL_PIXELS = 2_000_000  # decoded in about ten milliseconds

_BASE_BYTES = 64_000_000
_BYTES_PER_PIXEL = 20
_BYTES_PER_VIDEO_PIXEL = 64
_COPIES = 3
_KILL_SECONDS = 1.0  # a video's decoder stops itself where it can


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What decoding one file may take.

    Attributes:
        memory_bytes: memory beyond that of an idle process.
        cpu_seconds: processor time; the kernel rounds it up to whole seconds.
        seconds: time on the clock.
        is_large: the file may take hundreds of megabytes and several seconds.
    """

    memory_bytes: int
    cpu_seconds: float
    seconds: float
    is_large: bool


def image_budget(header: Header, file_bytes: int, spec: InputSpec, limits: ImageLimits) -> Budget:
    """The budget of an image. Processor time is in proportion to its pixels, but at least a second."""
    share = min(header.pixels / limits.max_pixels, 1.0)
    return Budget(
        memory_bytes=_BASE_BYTES + _BYTES_PER_PIXEL * header.pixels + _COPIES * (file_bytes + math.prod(spec.shape)),
        cpu_seconds=max(1.0, limits.decode_seconds * share),
        seconds=limits.decode_seconds,
        is_large=header.pixels > SMALL_PIXELS,
    )


def video_budget(file_bytes: int, spec: InputSpec, limits: VideoLimits) -> Budget:
    """The budget of a video. Its decoder stops itself in time, except inside a packet."""
    clips = spec.sampling.clips * spec.sampling.crops if spec.sampling else 1
    seconds = limits.decode_seconds + _KILL_SECONDS
    return Budget(
        memory_bytes=_BASE_BYTES
        + _BYTES_PER_VIDEO_PIXEL * limits.max_pixels
        + _COPIES * (file_bytes + clips * math.prod(spec.shape)),
        cpu_seconds=seconds,
        seconds=seconds,
        is_large=True,
    )
