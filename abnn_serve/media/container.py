"""Reads the packets of a video file under limits, with the time of each frame; decodes nothing."""

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
    UnreadableInputError,
    UnsupportedFormatError,
    one_line,
)
from abnn_serve.media.headers.jpeg import check_scans
from abnn_serve.media.headers.mp4 import check_mp4
from abnn_serve.media.limits import Interrupt, VideoLimits

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".ogv", ".flv")
FORMATS = ("MP4", "MOV", "WebM", "Matroska", "AVI", "MPEG", "Ogg", "FLV")
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")  # images in an MP4 container
CODECS = {  # FFmpeg's name for a codec, and its decoder
    "h264": "h264",
    "hevc": "hevc",
    "av1": "libdav1d",
    "vp8": "vp8",
    "vp9": "vp9",
    "mpeg1video": "mpeg1video",
    "mpeg2video": "mpeg2video",
    "mpeg4": "mpeg4",
    "msmpeg4v2": "msmpeg4v2",
    "msmpeg4v3": "msmpeg4",
    "h263": "h263",
    "flv1": "flv",
    "theora": "theora",
    "prores": "prores",
    "mjpeg": "mjpeg",
}
_NOT_PROBED = "mjpeg"  # its scans are counted before a frame is decoded, which FFmpeg would do to open the file
_PROBED_PIXELS = 4  # FFmpeg forgets the size of larger frames, relative to the limit, so no error could name it
_Packet: TypeAlias = "av.Packet[VideoStream]"
_DEFAULT_FPS = 25.0
_TIMESTAMPED = ("mov", "matroska")  # containers whose packets carry presentation times


class _InterruptibleBytes(io.BytesIO):
    """A file in memory whose reads raise once the interrupt is due."""

    def __init__(self, data: bytes, interrupt: Interrupt) -> None:
        super().__init__(data)
        self._interrupt = interrupt

    def read(self, size: int | None = -1, /) -> bytes:
        self._interrupt.check()
        return super().read(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """The packets of a video stream.

    Attributes:
        stream: the stream, whose codec context decodes the packets.
        packets: packets in decoding order.
        order: indices into `packets` of the frames to show, in presentation order, int64 (n,).
        times: presentation times of these frames, in seconds from the first, float64 (n,).
        timestamped: frames are identified by their presentation time; otherwise by counting from the first frame.
        keyframes: indices into `packets` at which decoding can start; only the first packet unless `timestamped`.
        declared: number of frames according to the header, or 0 if it does not say.
    """

    stream: VideoStream
    packets: list[_Packet]
    order: NDArray[np.int64]
    times: NDArray[np.float64]
    timestamped: bool
    keyframes: list[int]
    declared: int


@contextmanager
def open_packets(data: bytes, limits: VideoLimits, interrupt: Interrupt) -> Iterator[Packets]:
    """Read a file's packets; the stream stays open until the block ends.

    Raises:
        InputTooLargeError: the file exceeds `limits`.
        UnsupportedFormatError: the container is not in FORMATS, or the codec not in CODECS.
        UnreadableInputError: the file is empty or damaged, or has no frames.
    """
    limits.check_bytes(len(data))
    if not data:
        raise UnreadableInputError("the file is empty, expected a video")
    name = _detect_format(data)
    if name == "mov":
        check_mp4(data, limits.max_frames)
    container = _open(_InterruptibleBytes(data, interrupt), name, limits)
    with container:
        yield _read(container, _video_stream(container), limits, interrupt)


def is_video(data: bytes) -> bool:
    """Whether the first bytes of a file are those of a supported video format."""
    try:
        return bool(_detect_format(data))
    except UnsupportedFormatError:
        return False


def _detect_format(data: bytes) -> str:
    """FFmpeg's name for the container format. Playlists, which can refer to other files, are not accepted.

    Raises:
        UnsupportedFormatError: the format is not in FORMATS.
    """
    box, brand = data[4:8], data[8:12]
    if box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp") and brand not in _IMAGE_BRANDS:
        return "mov"
    for name, matches in (
        ("matroska", data.startswith(b"\x1a\x45\xdf\xa3")),
        ("avi", data.startswith(b"RIFF") and data[8:11] == b"AVI"),
        ("mpeg", data.startswith(b"\x00\x00\x01\xba")),
        ("mpegts", data[:1] == b"G" and data[188:189] == b"G" and len(data) > 188),
        ("ogg", data.startswith(b"OggS")),
        ("flv", data.startswith(b"FLV\x01")),
    ):
        if matches:
            return name
    raise UnsupportedFormatError(f"not a video in a supported format ({', '.join(FORMATS)})")


def _open(file: _InterruptibleBytes, name: str, limits: VideoLimits) -> InputContainer:
    decoders = ",".join(decoder for decoder in CODECS.values() if decoder != _NOT_PROBED)
    options = {"codec_whitelist": decoders, "max_pixels": str(_PROBED_PIXELS * limits.max_pixels)}
    try:
        return av.open(file, mode="r", format=name, metadata_errors="replace", options=options)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # FFmpeg's errors, and Python errors that odd headers cause in PyAV
        raise UnreadableInputError(f"the video's header is damaged: {_reason(error)}") from error


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise UnreadableInputError("the file has no video stream, expected a video")
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
    if codec not in CODECS:
        raise UnsupportedFormatError(
            f"the video's codec is {codec}, expected one of {', '.join(CODECS)}; convert it to H.264"
        )
    return stream


def _read(container: InputContainer, stream: VideoStream, limits: VideoLimits, interrupt: Interrupt) -> Packets:
    context = stream.codec_context
    context.thread_type, context.thread_count = "NONE", 1  # dav1d goes by the count alone
    context.options = {"max_pixels": str(limits.max_pixels)}
    if not context.width:
        raise UnreadableInputError(
            f"the video declares no frame size, or one far above the limit of {limits.max_pixels:,} pixels; shrink it"
        )
    limits.check_size(context.width, context.height)
    limits.check_frames(stream.frames)
    limits.check_duration(_declared_seconds(container, stream))
    packets: list[_Packet] = []
    total = 0
    try:
        for packet in container.demux(stream):
            interrupt.check()
            if packet.size:
                total += packet.size
                limits.check_packets(total)
                if context.name == "mjpeg":
                    check_scans(bytes(packet))
                packets.append(packet)
                limits.check_frames(len(packets))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # as in _open; a file cut off here may still have enough packets
        if not packets:
            raise UnreadableInputError(f"the video is damaged: {_reason(error)}") from error
    indexed = _index(container, stream, packets)
    limits.check_duration(float(indexed.times[-1]))
    return indexed


def _index(container: InputContainer, stream: VideoStream, packets: list[_Packet]) -> Packets:
    order = np.asarray([index for index, packet in enumerate(packets) if not packet.is_discard], np.int64)
    if not len(order):
        raise UnreadableInputError("the video has no frames")
    timestamps = [packets[index].pts for index in order.tolist()]
    unique = None not in timestamps and len(set(timestamps)) == len(timestamps)
    timestamped = unique and container.format.name.startswith(_TIMESTAMPED)
    if timestamped:
        ticks = np.asarray(timestamps, np.int64)
        order, ticks = order[np.argsort(ticks)], np.sort(ticks)
        times = (ticks - ticks[0]) * float(stream.time_base or 1)
    else:
        times = np.arange(len(order)) / _fps(stream)
    later_keyframes = [index for index, packet in enumerate(packets) if index and timestamped and packet.is_keyframe]
    return Packets(
        stream=stream,
        packets=packets,
        order=order,
        times=times,
        keyframes=[0, *later_keyframes],
        timestamped=timestamped,
        declared=stream.frames,
    )


def _fps(stream: VideoStream) -> float:
    """Frames per second; rates that are not positive, which a damaged header can declare, are ignored."""
    rates = (stream.average_rate, stream.guessed_rate)
    return next((float(rate) for rate in rates if rate and rate > 0), _DEFAULT_FPS)


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float:
    container_seconds = (container.duration or 0) / av.time_base
    stream_seconds = float((stream.duration or 0) * (stream.time_base or 0))
    return max(container_seconds, stream_seconds)


def _reason(error: Exception) -> str:
    """FFmpeg's message without its error number and file name."""
    return one_line(error).rpartition("] ")[2].partition(": '")[0]
