"""What is refused of a video, and when decoding it must stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from abnn_serve.errors import ConfigError, InputError, InputTooLargeError


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """What is refused, as far as the file says before any frame is decoded.

    Attributes:
        max_bytes: of the encoded file, at least 1.
        max_pixels: width times height of a frame, at least 1; the default lets 4K pass and not 8K.
        max_frames: of the whole video, at least 1.
        max_seconds: duration, above 0.
        decode_seconds: that reading and decoding may take, above 0.
    """

    max_bytes: int = 50_000_000
    max_pixels: int = 9_000_000
    max_frames: int = 20_000
    max_seconds: float = 600.0
    decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_frames"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
        for name in ("max_seconds", "decode_seconds"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value!r}, expected a number of seconds above 0")

    def check_size(self, width: int, height: int) -> None:
        """InputTooLargeError for a frame of too many pixels."""
        if width * height > self.max_pixels:
            raise InputTooLargeError(f"the video is {width}x{height} pixels, the limit is {self.max_pixels:,} in all")

    def check_frames(self, frames: int) -> None:
        """InputTooLargeError for too many frames."""
        if frames > self.max_frames:
            raise InputTooLargeError(f"the video has {frames:,} frames or more, the limit is {self.max_frames:,}")

    def check_duration(self, seconds: float) -> None:
        """InputTooLargeError for a video that is too long."""
        if seconds > self.max_seconds:
            raise InputTooLargeError(f"the video lasts {seconds:,.0f} s, the limit is {self.max_seconds:,.0f}")


class Watch:
    """Says when to stop: after a time, or when it is told to."""

    def __init__(self, seconds: float, stopped: Callable[[], bool]) -> None:
        self.seconds, self.stopped = seconds, stopped
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """InputTooLargeError when the time is over, InputError when it was told to stop."""
        if self.stopped():
            raise InputError("decoding was stopped")
        if time.monotonic() > self._end:
            raise InputTooLargeError(
                f"the video takes longer than {self.seconds:g} s to decode, which is the limit; shorten or shrink it"
            )
