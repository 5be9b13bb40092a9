"""Video bytes to uint8 (clips, T, H, W, 3) RGB pixels, under limits; only the frames that are needed are decoded."""

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
from abnn_serve.media.limits import VideoLimits, Watch
from abnn_serve.media.sampling import choose_frames
from abnn_serve.spec import InputSpec, Sampling

_MAY_BE_LOST = 0.05  # share of the frames; a clip of damaged frames shows something else than its video


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoClips:
    """The clips of one video.

    Attributes:
        pixels: uint8 (clips * crops, T, H, W, 3); the crops of a clip follow each other.
        frames: index of each frame in the video, int64 (clips * crops, T).
        times: when each of them is shown, in seconds from the video's first, float64 (clips * crops, T).
        seconds: when the video's last frame is shown.
        expected: frames of the whole video, as its header or, where that is silent, its packets say.
        found: frames of the whole video that have a packet.
        decoded: frames that were decoded.
        lost: of those that should have come out of decoding, the ones that did not, or came out damaged.
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
    data: bytes, spec: InputSpec, limits: VideoLimits, *, stopped: Callable[[], bool] = lambda: False
) -> VideoClips:
    """Decode the clips of a video that a model's input asks for, upright.

    Rotation metadata and pixels that are not square are applied, transparency is laid over black. Of a video that is
    damaged a little, the nearest frames stand for the lost ones.

    Args:
        data: the encoded file.
        spec: with a `sampling`.
        limits: what is refused.
        stopped: asked between packets; decoding ends soon after it says True.

    Raises:
        InputTooLargeError: more bytes, pixels, frames, seconds or decoding time than `limits`.
        UnsupportedFormatError: not a video container that is accepted, or a codec that is not known.
        UnreadableInputError: empty, damaged, without frames, or more than 5% of the decoded frames are lost.
        InputError: `stopped` said so.
    """
    if spec.sampling is None:
        raise ValueError("decode_video needs an InputSpec with a sampling")
    try:
        return _clips(data, spec, spec.sampling, limits, Watch(limits.decode_seconds, stopped))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a header that lies can mislead any step after it
        raise UnreadableInputError(f"the video is damaged: {one_line(error)}") from error


def _clips(data: bytes, spec: InputSpec, sampling: Sampling, limits: VideoLimits, watch: Watch) -> VideoClips:
    with open_packets(data, limits, watch) as packets:
        chosen = choose_frames(packets.times, sampling)
        wanted = np.unique(chosen)
        decoder = _Decoder(packets, limits, watch)
        fitter = Fitter(spec, sampling, float(packets.stream.sample_aspect_ratio or 1))
        kept = {index: fitter.fit(frame) for index, frame in decoder.frames(wanted)}
    expected = packets.declared or len(packets.times)
    _refuse_damage(decoder, max(expected - len(packets.times), 0), nothing=not kept)
    there = np.asarray(sorted(kept))
    shown = {int(index): kept[int(there[np.abs(there - index).argmin()])] for index in wanted}
    clips = np.stack([np.stack([shown[int(index)] for index in clip], axis=1) for clip in chosen])
    return VideoClips(
        pixels=clips.reshape(-1, *clips.shape[2:]),
        frames=chosen.repeat(sampling.crops, axis=0),
        times=packets.times[chosen].repeat(sampling.crops, axis=0),
        seconds=float(packets.times[-1]),
        expected=expected,
        found=len(packets.times),
        decoded=decoder.decoded,
        lost=decoder.lost,
    )


def _refuse_damage(decoder: _Decoder, missing: int, *, nothing: bool) -> None:
    lost, asked = decoder.lost + missing, decoder.decoded + decoder.lost + missing
    if nothing:
        raise UnreadableInputError("the video is damaged: no frame can be decoded")
    if lost > max(1, _MAY_BE_LOST * asked):
        raise UnreadableInputError(
            f"the video is damaged or cut off: {missing:,} of its frames are not in the file, and {decoder.lost:,} of "
            f"{decoder.decoded + decoder.lost:,} cannot be decoded"
        )


class _Decoder:
    """Decodes from the last keyframe before each frame that is wanted, and counts."""

    def __init__(self, packets: Packets, limits: VideoLimits, watch: Watch) -> None:
        self._all, self._limits, self._watch = packets, limits, watch
        self._context = packets.stream.codec_context
        self._by_stamp = {packets.packets[int(at)].pts: index for index, at in enumerate(packets.order)}
        self.decoded = self.lost = 0

    def frames(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, VideoFrame]]:
        """The frames at these ascending indices, with their indices; a damaged one is left out."""
        runs: dict[int, list[int]] = {}
        for index in wanted.tolist():
            runs.setdefault(self._start(index), []).append(index)
        for start, indices in runs.items():
            yield from self._run(start, indices)

    def _start(self, index: int) -> int:
        """The last keyframe that is shown no later than this frame."""
        keys, packets = self._all.keys, self._all.packets
        shown = packets[int(self._all.order[index])].pts or 0
        return max((key for key in keys if key and (packets[key].pts or 0) <= shown), default=0)

    def _run(self, start: int, indices: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        left, came = set(indices), 0
        for came, frame in enumerate(self._decode(start), start=1):
            index = self._by_stamp.get(frame.pts, -1) if self._all.stamped else came - 1
            if frame.is_corrupt:
                self.lost += 1
            else:
                self.decoded += 1
                if index in left:
                    yield index, frame
            left.discard(index)
            if not left or index > indices[-1]:
                break
        else:
            self.lost += max(int((self._all.order >= start).sum()) - came, 0)
        self._context.flush_buffers()

    def _decode(self, start: int) -> Iterator[VideoFrame]:
        for packet in [*self._all.packets[start:], None]:
            self._watch.check()
            try:
                frames = self._context.decode(packet)
            except av.FFmpegError:
                continue  # its frame will be missing from the count
            for frame in frames:
                self._limits.check_size(frame.width, frame.height)
                yield frame
