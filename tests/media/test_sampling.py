"""Which frames make a video's clips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abnn_serve.errors import UnreadableInputError
from abnn_serve.media.sampling import choose_frames
from abnn_serve.spec import Sampling

TIMES = np.arange(40) / 20


def test_one_clip_is_the_middle_and_several_reach_both_ends():
    assert choose_frames(TIMES, Sampling(frames=4)).tolist() == [[18, 19, 20, 21]]
    assert choose_frames(TIMES, Sampling(frames=2, clips=3, stride=3)).tolist() == [[0, 3], [18, 21], [36, 39]]


def test_windows_do_not_overlap_and_are_spread_where_there_are_too_many():
    every = choose_frames(TIMES, Sampling(frames=16, clips=10, placement="windows"))
    assert every[:, 0].tolist() == [0, 16]
    some = choose_frames(TIMES, Sampling(frames=4, clips=3, placement="windows"))
    assert some[:, 0].tolist() == [0, 16, 36]


def test_a_short_video_holds_its_last_frame():
    assert choose_frames(TIMES[:3], Sampling(frames=5)).tolist() == [[0, 1, 2, 2, 2]]
    assert choose_frames(TIMES[:1], Sampling(frames=2, fps=10.0)).tolist() == [[0, 0]]


def test_a_frame_rate_picks_the_nearest_frames():
    assert choose_frames(TIMES, Sampling(frames=3, stride=1, fps=10.0, clips=2))[0].tolist() == [0, 2, 4]
    assert choose_frames(TIMES, Sampling(frames=4, fps=40.0, clips=2))[0].tolist() in ([0, 0, 1, 1], [0, 1, 1, 2])


@pytest.mark.parametrize("times", [-TIMES, [0, 2, 1]])
def test_times_that_run_backwards_are_refused(times):
    for fps in (None, 10.0):
        with pytest.raises(UnreadableInputError, match="its frame times are not ascending"):
            choose_frames(np.asarray(times, float), Sampling(frames=4, fps=fps))


@given(
    st.integers(1, 200),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(1, 7),
    st.sampled_from(["spread", "windows"]),
    st.sampled_from([None, 1.0, 12.5, 60.0]),
)
def test_indices_are_always_inside_and_ascending(count, frames, stride, clips, placement, fps):
    sampling = Sampling(frames=frames, stride=stride, clips=clips, placement=placement, fps=fps)
    chosen = choose_frames(np.arange(count) / 30, sampling)
    assert chosen.shape[1] == frames
    assert 1 <= len(chosen) <= clips
    assert chosen.min() >= 0
    assert chosen.max() < count
    assert (np.diff(chosen, axis=1) >= 0).all()
