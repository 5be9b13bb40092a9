"""Which frames of a video make its clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import UnreadableInputError
from abnn_serve.spec import Sampling


def choose_frames(times: NDArray[np.float64], sampling: Sampling) -> NDArray[np.int64]:
    """The frames of each clip of a video.

    Args:
        times: when each frame is shown, in seconds, ascending, (n,), n >= 1.
        sampling: how many frames and clips, and where.

    Returns:
        indices of frames, int64 (clips, frames); fewer clips than `sampling.clips` where the video holds fewer windows.

    Raises:
        UnreadableInputError: times that run backwards.
    """
    if (np.diff(times) < 0).any():
        raise UnreadableInputError("the video is damaged: the times of its frames run backwards")
    ticks = _resampled(times, sampling.fps)
    last = len(ticks) - 1
    offsets = np.arange(sampling.frames, dtype=np.int64) * sampling.stride
    starts = _starts(len(ticks), sampling)
    clips: NDArray[np.int64] = ticks[np.minimum(starts[:, None] + offsets, last)]
    return clips


def _starts(count: int, sampling: Sampling) -> NDArray[np.int64]:
    room = max(count - sampling.span, 0)
    if sampling.placement == "windows":
        windows = np.arange(0, room + 1, sampling.span, dtype=np.int64)
        chosen = np.linspace(0, len(windows) - 1, min(sampling.clips, len(windows)))
        return windows[np.rint(chosen).astype(np.int64)]
    if sampling.clips == 1:
        return np.asarray([room // 2], np.int64)
    return np.rint(np.linspace(0, room, sampling.clips)).astype(np.int64)


def _resampled(times: NDArray[np.float64], fps: float | None) -> NDArray[np.int64]:
    """The frame that is nearest to each tick of a clock of `fps`; every frame where there is none."""
    if fps is None:
        return np.arange(len(times), dtype=np.int64)
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * fps) + 1) / fps
    after = np.searchsorted(times, ticks).clip(1, max(len(times) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    nearer: NDArray[np.int64] = np.where(times[after] - ticks < ticks - times[before], after, before)
    return nearer
