"""Decodes the clips of a video under limits; decodes only from the keyframes before the frames that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from abnn_serve.errors import InputError, UnreadableInputError, one_line
from abnn_serve.media.container import Packets, open_packets
from abnn_serve.media.fitting import Fitter, Pixels
from abnn_serve.media.limits import Interrupt, VideoLimits
from abnn_serve.media.sampling import choose_frames
from abnn_serve.spec import InputSpec, Sampling

_MAX_LOST_SHARE = 0.05  # with more damaged frames, a clip no longer represents its video


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoClips:
    """The clips of one video.

    Attributes:
        pixels: uint8 (clips * crops, T, H, W, 3); the crops of a clip are adjacent.
        frames: index of each frame in the video, int64 (clips * crops, T).
        times: time of each frame in seconds from the video's first frame, float64 (clips * crops, T).
        seconds: time of the video's last frame.
        expected: frames in the video according to its header, or else to its packets.
        found: frames in the video that have a packet.
        decoded: frames decoded without damage.
        lost: frames that could not be decoded, or only with damage.
    """

    pixels: Pixels
    frames: NDArray[np.int64]
    times: NDArray[np.float64]
    seconds: float
    expected: int
    found: int
    decoded: int
    lost: int


def decode_video(
    data: bytes, spec: InputSpec, limits: VideoLimits, *, is_cancelled: Callable[[], bool] = lambda: False
) -> VideoClips:
    """Decode the clips that a model's input needs.

    Applies rotation metadata and pixel aspect ratio, and composites transparency over black. The nearest decoded frame
    replaces a lost one.

    Args:
        data: the encoded file.
        spec: the model's input, with a `sampling`.
        limits: limits for the file.
        is_cancelled: polled between packets; decoding stops once it returns True.

    Raises:
        InputTooLargeError: the video exceeds `limits`.
        UnsupportedFormatError: the container or the codec is not supported.
        UnreadableInputError: the file is empty or damaged, has no frames, or more than 5% of its frames are lost.
        InputError: `is_cancelled` returned True.
    """
    if spec.sampling is None:
        raise ValueError("decode_video needs an InputSpec with a sampling")
    try:
        return _decode_clips(data, spec, spec.sampling, limits, Interrupt(limits.decode_seconds, is_cancelled))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a wrong header can break any later step
        raise UnreadableInputError(f"the video is damaged: {one_line(error)}") from error


def _decode_clips(
    data: bytes, spec: InputSpec, sampling: Sampling, limits: VideoLimits, interrupt: Interrupt
) -> VideoClips:
    with open_packets(data, limits, interrupt) as packets:
        clip_frames = choose_frames(packets.times, sampling)
        needed = np.unique(clip_frames)
        decoder = _Decoder(packets, limits, interrupt)
        fitter = Fitter(spec, sampling, float(packets.stream.sample_aspect_ratio or 1))
        decoded = {index: fitter.fit(frame) for index, frame in decoder.frames(needed)}
    expected = packets.declared or len(packets.times)
    _check_damage(decoder, missing=max(expected - len(packets.times), 0), is_empty=not decoded)
    available = np.asarray(sorted(decoded))
    nearest = {int(index): decoded[int(available[np.abs(available - index).argmin()])] for index in needed}
    clips = np.stack([np.stack([nearest[int(index)] for index in clip], axis=1) for clip in clip_frames])
    return VideoClips(
        pixels=clips.reshape(-1, *clips.shape[2:]),
        frames=clip_frames.repeat(sampling.crops, axis=0),
        times=packets.times[clip_frames].repeat(sampling.crops, axis=0),
        seconds=float(packets.times[-1]),
        expected=expected,
        found=len(packets.times),
        decoded=decoder.decoded,
        lost=decoder.lost,
    )


def _check_damage(decoder: _Decoder, *, missing: int, is_empty: bool) -> None:
    attempted = decoder.decoded + decoder.lost
    if is_empty:
        raise UnreadableInputError("the video is damaged: no frame can be decoded")
    if decoder.lost + missing > max(1, _MAX_LOST_SHARE * (attempted + missing)):
        raise UnreadableInputError(
            f"the video is damaged or cut off: {missing:,} frames are missing from the file, and {decoder.lost:,} of "
            f"{attempted:,} cannot be decoded"
        )


class _Decoder:
    """Decodes frames from the last keyframe before each, and counts decoded and lost frames."""

    def __init__(self, packets: Packets, limits: VideoLimits, interrupt: Interrupt) -> None:
        self._packets, self._limits, self._interrupt = packets, limits, interrupt
        self._context = packets.stream.codec_context
        self._index_by_pts = {packets.packets[int(at)].pts: index for index, at in enumerate(packets.order)}
        self.decoded = self.lost = 0

    def frames(self, needed: NDArray[np.int64]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield the frames at these ascending indices, with their indices; skip damaged frames."""
        by_keyframe: dict[int, list[int]] = {}
        for index in needed.tolist():
            by_keyframe.setdefault(self._keyframe_before(index), []).append(index)
        for keyframe, indices in by_keyframe.items():
            yield from self._frames_after(keyframe, indices)

    def _keyframe_before(self, index: int) -> int:
        keyframes, packets = self._packets.keyframes, self._packets.packets
        pts = packets[int(self._packets.order[index])].pts or 0
        return max((key for key in keyframes if key and (packets[key].pts or 0) <= pts), default=0)

    def _frames_after(self, keyframe: int, indices: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        remaining, count = set(indices), 0
        for count, frame in enumerate(self._decode(keyframe), start=1):
            index = self._index_by_pts.get(frame.pts, -1) if self._packets.timestamped else count - 1
            if frame.is_corrupt:
                self.lost += 1
            else:
                self.decoded += 1
                if index in remaining:
                    yield index, frame
            remaining.discard(index)
            if not remaining or index > indices[-1]:
                break
        else:
            self.lost += max(int((self._packets.order >= keyframe).sum()) - count, 0)
        self._context.flush_buffers()

    def _decode(self, keyframe: int) -> Iterator[VideoFrame]:
        for packet in [*self._packets.packets[keyframe:], None]:
            self._interrupt.check()
            try:
                frames = self._context.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                continue  # counted as lost, because no frame comes of it
            for frame in frames:
                self._limits.check_size(frame.width, frame.height)
                yield frame
