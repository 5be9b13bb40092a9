"""Video bytes to uint8 (clips, T, H, W, 3) RGB pixels, under limits; only the frames that are needed are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation as Filter
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from abnn_serve.errors import UnreadableInputError
from abnn_serve.media.container import Packets, VideoLimits, Watch, open_packets
from abnn_serve.media.sampling import choose_frames
from abnn_serve.spec import InputSpec, Interpolation, Sampling

_FILTERS: dict[Interpolation, Filter] = {
    "nearest": Filter.POINT,
    "bilinear": Filter.BILINEAR,
    "bicubic": Filter.BICUBIC,
    "lanczos": Filter.LANCZOS,
    "box": Filter.AREA,
}
_EXACT = Filter.ACCURATE_RND | Filter.FULL_CHR_H_INT | Filter.BITEXACT  # the same pixels on every processor
_MAY_BE_LOST = 0.05  # share of the frames; a clip of damaged frames shows something else than its video
_Pixels = NDArray[np.uint8]


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

    pixels: _Pixels
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
        UnreadableInputError: empty, without frames, or more than 5% of the decoded frames are lost.
        InputError: `stopped` said so.
    """
    sampling = spec.sampling
    if sampling is None:
        raise ValueError("decode_video needs an InputSpec with a sampling")
    watch = Watch(limits.decode_seconds, stopped)
    with open_packets(data, limits, watch) as packets:
        chosen = choose_frames(packets.times, sampling)
        wanted = np.unique(chosen)
        decoder = _Decoder(packets, limits, watch)
        fitter = _Fitter(spec, sampling, packets)
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
        """The packet to begin with."""
        keys, packets = self._all.keys, self._all.packets
        if len(keys) == 1:
            return int(keys[0])
        stamp = packets[int(self._all.order[index])].pts
        before = [int(key) for key in keys if (packets[int(key)].pts or 0) <= (stamp or 0)]
        return max(before, default=int(keys[0]))

    def _run(self, start: int, indices: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        left, came = set(indices), 0
        by_order = len(self._all.keys) == 1
        for came, frame in enumerate(self._decode(start), start=1):
            index = came - 1 if by_order else self._by_stamp.get(frame.pts, -1)
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


class _Fitter:
    """A decoded frame to uint8 (crops, H, W, 3), scaled while it is converted."""

    def __init__(self, spec: InputSpec, sampling: Sampling, packets: Packets) -> None:
        self._spec, self._crops = spec, sampling.crops
        self._aspect = float(packets.stream.sample_aspect_ratio or 1) or 1.0
        self._reformatter = VideoReformatter()

    def fit(self, frame: VideoFrame) -> _Pixels:
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

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> _Pixels:
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

    def _corners(self, upright: _Pixels) -> list[tuple[int, int]]:
        down, right = upright.shape[0] - self._spec.height, upright.shape[1] - self._spec.width
        if self._crops == 1:
            return [(down // 2, right // 2)]
        return [(down * part // 2, right * part // 2) for part in range(3)]
