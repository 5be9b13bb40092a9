"""A video file to its packets, under limits: what is in it, when each frame is shown, and nothing decoded yet."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from abnn_serve.errors import (
    ConfigError,
    InputError,
    InputTooLargeError,
    UnreadableInputError,
    UnsupportedFormatError,
    one_line,
)

FORMATS = ("MP4", "MOV", "WebM", "Matroska", "AVI", "MPEG", "Ogg", "FLV")
_PICTURES = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")  # brands of pictures in the MP4 container
_Packet: TypeAlias = "av.Packet[VideoStream]"
_SEEKABLE = ("mov", "matroska")  # containers whose packets carry the time at which their frame is shown


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


class _Watched(io.BytesIO):
    """Bytes in memory; FFmpeg's reads stop when the watch says so."""

    def __init__(self, data: bytes, watch: Watch) -> None:
        super().__init__(data)
        self._watch = watch

    def read(self, size: int | None = -1, /) -> bytes:
        self._watch.check()
        return super().read(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """A video stream before it is decoded.

    Attributes:
        stream: decodes the packets.
        packets: in decoding order.
        order: packets whose frames are shown, in the order in which they are, int64 (n,).
        times: when each of these frames is shown, in seconds from the first, float64 (n,).
        keys: positions in `packets` from which decoding can begin, int64; only the first where times cannot be trusted.
        declared: frames that the header promises; 0 where it promises none.
    """

    stream: VideoStream
    packets: list[_Packet]
    order: NDArray[np.int64]
    times: NDArray[np.float64]
    keys: NDArray[np.int64]
    declared: int


@contextmanager
def open_packets(data: bytes, limits: VideoLimits, watch: Watch) -> Iterator[Packets]:
    """Read a file's packets; its stream can be used as long as the block lasts.

    Raises:
        InputTooLargeError: beyond `limits`.
        UnsupportedFormatError: not one of FORMATS, or a codec that cannot be decoded.
        UnreadableInputError: empty, damaged, or without a frame.
    """
    if len(data) > limits.max_bytes:
        raise InputTooLargeError(f"the file has {len(data):,} bytes, the limit is {limits.max_bytes:,}")
    if not data:
        raise UnreadableInputError("the file is empty, expected a video")
    container = _open(_Watched(data, watch), _sniff(data))
    with container:
        yield _read(container, _video_stream(container), limits, watch)


def is_video(data: bytes) -> bool:
    """Whether a file begins as a video of a supported format does."""
    try:
        return bool(_sniff(data))
    except UnsupportedFormatError:
        return False


def _sniff(data: bytes) -> str:
    """FFmpeg's name of the container, from the first bytes: playlists, which name other files, are never opened.

    Raises:
        UnsupportedFormatError: not one of FORMATS.
    """
    kind, brand = data[4:8], data[8:12]
    if kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp") and brand not in _PICTURES:
        return "mov"
    for name, found in (
        ("matroska", data.startswith(b"\x1a\x45\xdf\xa3")),
        ("avi", data.startswith(b"RIFF") and data[8:11] == b"AVI"),
        ("mpeg", data.startswith(b"\x00\x00\x01\xba")),
        ("mpegts", data[:1] == b"G" and data[188:189] == b"G" and len(data) > 188),
        ("ogg", data.startswith(b"OggS")),
        ("flv", data.startswith(b"FLV\x01")),
    ):
        if found:
            return name
    raise UnsupportedFormatError(f"not a video of a supported format ({', '.join(FORMATS)})")


def _open(file: _Watched, name: str) -> InputContainer:
    try:
        return av.open(file, mode="r", format=name, metadata_errors="replace")
    except InputError:
        raise
    except Exception as error:  # FFmpeg's errors, and Python's of what its header makes PyAV do
        raise UnreadableInputError(f"the video's header is damaged: {_reason(error)}") from error


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise UnreadableInputError("the file has no video stream")
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    if stream.codec_context is None:
        raise UnsupportedFormatError("the video's codec is not known here; use H.264, H.265, VP9 or AV1")
    return stream


def _read(container: InputContainer, stream: VideoStream, limits: VideoLimits, watch: Watch) -> Packets:
    context = stream.codec_context
    context.thread_type = "NONE"
    context.options = {"max_pixels": str(limits.max_pixels)}
    limits.check_size(context.width, context.height)
    limits.check_frames(stream.frames)
    limits.check_duration(_declared_seconds(container, stream))
    packets: list[_Packet] = []
    try:
        for packet in container.demux(stream):
            watch.check()
            if packet.size:
                packets.append(packet)
                limits.check_frames(len(packets))
    except InputError:
        raise
    except Exception as error:  # as in _open; what was read until then may be all that there is
        if not packets:
            raise UnreadableInputError(f"the video is damaged: {_reason(error)}") from error
    found = _index(container, stream, packets)
    limits.check_duration(float(found.times[-1]))
    return found


def _index(container: InputContainer, stream: VideoStream, packets: list[_Packet]) -> Packets:
    shown = [position for position, packet in enumerate(packets) if not packet.is_discard]
    if not shown:
        raise UnreadableInputError("the video has no frames")
    stamps = [packets[position].pts for position in shown]
    trusted = container.format.name.startswith(_SEEKABLE) and None not in stamps and len(set(stamps)) == len(stamps)
    if trusted:
        order = np.asarray(shown, np.int64)[np.argsort(np.asarray(stamps, np.int64))]
        ticks = np.sort(np.asarray(stamps, np.int64))
        times = (ticks - ticks[0]) * float(stream.time_base or 1)
        keys = np.asarray([i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts is not None])
    else:
        order = np.asarray(shown, np.int64)
        times = np.arange(len(order)) / float(stream.average_rate or stream.guessed_rate or 25)
        keys = np.zeros(0)
    if not len(keys) or keys[0] != 0:
        keys = np.concatenate([[0], keys])
    return Packets(
        stream=stream,
        packets=packets,
        order=order,
        times=times.astype(np.float64),
        keys=keys.astype(np.int64) if trusted else np.zeros(1, np.int64),
        declared=stream.frames,
    )


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float:
    whole = (container.duration or 0) / av.time_base
    own = float((stream.duration or 0) * (stream.time_base or 0))
    return max(whole, own)


def _reason(error: Exception) -> str:
    """FFmpeg's text without its number and file name."""
    return one_line(error).rpartition("] ")[2].partition(": '")[0]
