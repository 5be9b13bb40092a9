"""A video file to its packets, under limits: what is in it, when each frame is shown, and nothing decoded yet."""

from __future__ import annotations

import io
from collections.abc import Iterator
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
    InputError,
    InputTooLargeError,
    UnreadableInputError,
    UnsupportedFormatError,
    one_line,
)
from abnn_serve.media.limits import VideoLimits, Watch

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".ogv", ".flv")
FORMATS = ("MP4", "MOV", "WebM", "Matroska", "AVI", "MPEG", "Ogg", "FLV")
_PICTURES = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")  # brands of pictures in the MP4 container
_Packet: TypeAlias = "av.Packet[VideoStream]"
_USUAL_RATE = 25.0
_STAMPED = ("mov", "matroska")  # containers whose packets carry the time at which their frame is shown


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
        stamped: a decoded frame can be told by its time; else only by counting from the first.
        keys: positions in `packets` from which decoding can begin; only the first where frames are counted.
        declared: frames that the header promises; 0 where it promises none.
    """

    stream: VideoStream
    packets: list[_Packet]
    order: NDArray[np.int64]
    times: NDArray[np.float64]
    stamped: bool
    keys: list[int]
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
    order = np.asarray([at for at, packet in enumerate(packets) if not packet.is_discard], np.int64)
    if not len(order):
        raise UnreadableInputError("the video has no frames")
    stamps = [packets[at].pts for at in order.tolist()]
    stamped = container.format.name.startswith(_STAMPED) and None not in stamps and len(set(stamps)) == len(stamps)
    if stamped:
        ticks = np.asarray(stamps, np.int64)
        order, ticks = order[np.argsort(ticks)], np.sort(ticks)
        times = (ticks - ticks[0]) * float(stream.time_base or 1)
    else:
        times = np.arange(len(order)) / _rate(stream)
    keys = [at for at, packet in enumerate(packets) if at and stamped and packet.is_keyframe]
    return Packets(
        stream=stream,
        packets=packets,
        order=order,
        times=times,
        keys=[0, *keys],
        stamped=stamped,
        declared=stream.frames,
    )


def _rate(stream: VideoStream) -> float:
    """Frames a second; FFmpeg reports a negative one where the file says so."""
    rates = (stream.average_rate, stream.guessed_rate)
    return next((float(rate) for rate in rates if rate and rate > 0), _USUAL_RATE)


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float:
    whole = (container.duration or 0) / av.time_base
    own = float((stream.duration or 0) * (stream.time_base or 0))
    return max(whole, own)


def _reason(error: Exception) -> str:
    """FFmpeg's text without its number and file name."""
    return one_line(error).rpartition("] ")[2].partition(": '")[0]
