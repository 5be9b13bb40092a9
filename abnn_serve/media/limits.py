"""Limits for images and videos, and the interrupt that stops decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from abnn_serve.errors import ConfigError, InputError, InputTooLargeError

_POLL_SECONDS = 0.005
_PILLOW_MAX_PIXELS = 178_956_970  # larger images raise DecompressionBombError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Limits that are checked before any pixel is decoded.

    Attributes:
        max_bytes: size of the encoded file, at least 1.
        max_pixels: width times height as declared in the header, 1 to 178,956,970. The area of a TIFF file's tiles and
            strips, four times the canvas of an animated WebP, and twice an image with transparency or in CMYK must not
            exceed it either.
        decode_seconds: time for decoding in an isolated process, above 0.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 40_000_000
    decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        _check_counts(self, "max_bytes", "max_pixels")
        _check_seconds(self, "decode_seconds")
        if self.max_pixels > _PILLOW_MAX_PIXELS:
            raise ConfigError(f"max_pixels is {self.max_pixels:,}, expected at most {_PILLOW_MAX_PIXELS:,}")

    def check_bytes(self, count: int) -> None:
        """Raise InputTooLargeError if the file has too many bytes."""
        if count > self.max_bytes:
            raise InputTooLargeError(
                f"the image has {count:,} bytes, the limit is {self.max_bytes:,}; compress or shrink it"
            )

    def check_size(self, width: int, height: int, touched: int = 0) -> None:
        """Raise InputTooLargeError if the image has, or decoding touches, too many pixels."""
        if width * height > self.max_pixels:
            raise InputTooLargeError(
                f"the image has {width}x{height} = {width * height:,} pixels, the limit is {self.max_pixels:,}; "
                "shrink it"
            )
        if touched > self.max_pixels:
            raise InputTooLargeError(
                f"the image of {width}x{height} pixels costs as much as {touched:,} for its tiles, strips, frames or "
                f"fourth channel, the limit is {self.max_pixels:,}; save it without tiles, animation or transparency"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """Limits that are checked against the header before any frame is decoded, and again while decoding.

    Attributes:
        max_bytes: size of the encoded file, at least 1.
        max_pixels: width times height of a frame, at least 1; the default admits 4K but not 8K.
        max_frames: number of frames in the video, at least 1.
        max_seconds: duration of the video, above 0.
        decode_seconds: time for reading and decoding, above 0.
    """

    max_bytes: int = 50_000_000
    max_pixels: int = 9_000_000
    max_frames: int = 20_000
    max_seconds: float = 600.0
    decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        _check_counts(self, "max_bytes", "max_pixels", "max_frames")
        _check_seconds(self, "max_seconds", "decode_seconds")

    def check_bytes(self, count: int) -> None:
        """Raise InputTooLargeError if the file has too many bytes."""
        if count > self.max_bytes:
            raise InputTooLargeError(
                f"the video has {count:,} bytes, the limit is {self.max_bytes:,}; compress or shorten it"
            )

    def check_packets(self, count: int) -> None:
        """Raise InputTooLargeError if the packets read so far have more bytes than a file may."""
        if count > self.max_bytes:
            raise InputTooLargeError(
                f"the video's packets have at least {count:,} bytes in all, the limit is {self.max_bytes:,}; compress "
                "or shorten it"
            )

    def check_size(self, width: int, height: int) -> None:
        """Raise InputTooLargeError if a frame has too many pixels."""
        if width * height > self.max_pixels:
            raise InputTooLargeError(
                f"the video's frames have {width}x{height} = {width * height:,} pixels, the limit is "
                f"{self.max_pixels:,}; shrink it"
            )

    def check_frames(self, frames: int) -> None:
        """Raise InputTooLargeError if the video has too many frames."""
        if frames > self.max_frames:
            raise InputTooLargeError(
                f"the video has at least {frames:,} frames, the limit is {self.max_frames:,}; shorten it"
            )

    def check_duration(self, seconds: float) -> None:
        """Raise InputTooLargeError if the video is too long."""
        if seconds > self.max_seconds:
            raise InputTooLargeError(
                f"the video lasts {seconds:,.0f} s, the limit is {self.max_seconds:,.0f} s; shorten it"
            )


def _check_counts(limits: ImageLimits | VideoLimits, *names: str) -> None:
    for name in names:
        value = getattr(limits, name)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")


def _check_seconds(limits: ImageLimits | VideoLimits, *names: str) -> None:
    for name in names:
        value = getattr(limits, name)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value!r}, expected a number of seconds above 0")


class Interrupt:
    """Stops decoding after `seconds`, or once `is_cancelled` returns True."""

    def __init__(self, seconds: float, is_cancelled: Callable[[], bool]) -> None:
        self._seconds, self._is_cancelled = seconds, is_cancelled
        self._next_poll = time.monotonic()
        self._end = self._next_poll + seconds

    def check(self) -> None:
        """Raise InputError if decoding is cancelled, InputTooLargeError if it takes too long."""
        now = time.monotonic()
        if now >= self._next_poll:  # polling takes longer than decoding a small packet
            self._next_poll = now + _POLL_SECONDS
            if self._is_cancelled():
                raise InputError("decoding was cancelled")
        if now > self._end:
            raise InputTooLargeError(
                f"decoding the video takes more than {self._seconds:g} s, which is the limit; shorten or shrink it"
            )
