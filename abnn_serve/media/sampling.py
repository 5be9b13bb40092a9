"""Chooses the frames of a video's clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import UnreadableInputError
from abnn_serve.spec import Sampling


def choose_frames(times: NDArray[np.float64], sampling: Sampling) -> NDArray[np.int64]:
    """Choose the frames of each clip.

    Args:
        times: presentation times of the video's frames in seconds, ascending, (n,), n >= 1.
        sampling: number, length and placement of the clips.

    Returns:
        Frame indices, int64 (clips, frames). With `windows`, a short video has fewer than `sampling.clips` clips.

    Raises:
        UnreadableInputError: the times are not ascending.
    """
    if (np.diff(times) < 0).any():
        raise UnreadableInputError("the video is damaged: its frame times are not ascending")
    resampled = _resample(times, sampling.fps)
    offsets = np.arange(sampling.frames, dtype=np.int64) * sampling.stride
    starts = _starts(len(resampled), sampling)
    clips: NDArray[np.int64] = resampled[np.minimum(starts[:, None] + offsets, len(resampled) - 1)]
    return clips


def _starts(count: int, sampling: Sampling) -> NDArray[np.int64]:
    last_start = max(count - sampling.span, 0)
    if sampling.placement == "windows":
        windows = np.arange(0, last_start + 1, sampling.span, dtype=np.int64)
        chosen = np.linspace(0, len(windows) - 1, min(sampling.clips, len(windows)))
        return windows[np.rint(chosen).astype(np.int64)]
    if sampling.clips == 1:
        return np.asarray([last_start // 2], np.int64)
    return np.rint(np.linspace(0, last_start, sampling.clips)).astype(np.int64)


def _resample(times: NDArray[np.float64], fps: float | None) -> NDArray[np.int64]:
    """Indices of the frames nearest in time to a constant rate of `fps`; of all frames if `fps` is None."""
    if fps is None:
        return np.arange(len(times), dtype=np.int64)
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * fps) + 1) / fps
    after = np.searchsorted(times, ticks).clip(1, max(len(times) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    nearest: NDArray[np.int64] = np.where(times[after] - ticks < ticks - times[before], after, before)
    return nearest
