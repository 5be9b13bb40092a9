"""Videos decode right or are refused, within their limits."""

from __future__ import annotations

import csv
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from abnn_serve.errors import (
    ConfigError,
    InputError,
    InputTooLargeError,
    UnreadableInputError,
    UnsupportedFormatError,
)
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import claiming_rate, draw_shape, encode_video, moving_square, png

SPEC = InputSpec(height=48, width=64, sampling=Sampling(frames=8))
LIMITS = VideoLimits()
EXACT = {"options": {"crf": "0", "preset": "ultrafast"}, "pixels": "yuv444p"}


def _with(**sampling) -> InputSpec:
    return replace(SPEC, sampling=Sampling(**{"frames": 8, **sampling}))


def _levels(pixels) -> list[int]:
    """Which frame of moving_square each frame shows, by its background."""
    return np.rint((pixels[:, 2, 2].astype(float).mean(axis=-1) - 40) / 3).astype(int).tolist()


def test_the_middle_frames_come_out_as_they_went_in():
    frames = moving_square()
    found = decode_video(encode_video(frames, **EXACT), SPEC, LIMITS)
    assert found.pixels.shape == (1, 8, 48, 64, 3)
    assert found.frames.tolist() == [list(range(8, 16))]
    assert np.abs(found.pixels[0].astype(int) - np.stack(frames[8:16])).max() <= 4  # of the colour conversion
    assert (found.expected, found.found, found.lost) == (24, 24, 0)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video")],
)
def test_every_container_gives_the_same_frames(container, codec):
    options = {"qmin": "1", "qmax": "1"} if codec.startswith("mpeg") else {"crf": "4", "b": "4M"}
    found = decode_video(encode_video(moving_square(), container=container, codec=codec, options=options), SPEC, LIMITS)
    assert _levels(found.pixels[0]) == list(range(8, 16))


def test_only_the_frames_that_are_needed_are_decoded():
    video = encode_video(moving_square(60), options={"g": "10", "bf": "2"})
    found = decode_video(video, _with(frames=2, clips=2), LIMITS)
    assert found.frames.tolist() == [[0, 1], [58, 59]]
    assert found.decoded <= 2 + 10 + 3
    assert found.found == 60


def test_frames_are_right_after_every_keyframe():
    video = encode_video(moving_square(50), options={"g": "7", "bf": "3", "crf": "4"})
    found = decode_video(video, _with(frames=3, clips=9, stride=2), LIMITS)
    assert [_levels(clip) for clip in found.pixels] == found.frames.tolist()


@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_rotation_metadata_is_applied(angle):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32] = (250, 20, 20)
    upright = np.rot90(frame, angle // 90)
    spec = InputSpec(height=upright.shape[0], width=upright.shape[1], sampling=Sampling(frames=1))
    found = decode_video(encode_video([frame] * 3, rotation=angle, **EXACT), spec, LIMITS).pixels[0, 0]
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_variable_frame_rate_is_sampled_by_time():
    times = [0, 20, 40, 60, 80, 100, 500, 1000]  # milliseconds
    video = encode_video(moving_square(8), container="matroska", times=times)
    found = decode_video(video, _with(frames=5, fps=4.0), LIMITS)
    assert found.frames.tolist() == [[0, 5, 6, 6, 7]] or found.frames.tolist() == [[0, 5, 6, 7, 7]]
    assert found.seconds == pytest.approx(1.0)


@pytest.mark.parametrize("claimed", [-25.0, -1.0, 0.0, float("nan"), float("-inf"), 1e-9, -1e300])
def test_a_frame_rate_that_cannot_be_is_not_believed(claimed):
    video = claiming_rate(encode_video(moving_square(), container="flv", codec="flv1"), claimed)
    found = decode_video(video, _with(frames=4, fps=12.5), LIMITS)
    assert found.frames.tolist() == [[8, 10, 12, 14]]
    assert found.seconds == pytest.approx(23 / 25)


@pytest.mark.parametrize("side", [1, 3, 17])
def test_odd_sizes_are_brought_to_the_models(side):
    frame = np.full((side, 2 * side + 1, 3), 200, np.uint8)
    video = encode_video([frame] * 4, container="avi", codec="mjpeg", pixels="yuvj444p")
    found = decode_video(video, SPEC, LIMITS)
    assert found.pixels.shape == (1, 8, 48, 64, 3)
    assert np.abs(found.pixels.astype(int) - 200).max() <= 2


def test_transparency_is_laid_over_black():
    frame = np.full((48, 64, 4), 200, np.uint8)
    frame[..., 3] = 255
    frame[:, :32, 3] = 0
    found = decode_video(
        encode_video([frame] * 2, container="mov", codec="prores_ks", pixels="yuva444p10le"), SPEC, LIMITS
    )
    left, right = found.pixels[0, 0, :, :30], found.pixels[0, 0, :, 34:]
    assert left.max() == 0
    assert np.abs(right.astype(int) - 200).max() <= 1


def test_ten_bits_are_brought_to_eight():
    found = decode_video(encode_video(moving_square(), codec="libx265", pixels="yuv420p10le"), SPEC, LIMITS)
    assert _levels(found.pixels[0]) == list(range(8, 16))


def test_three_crops_cover_the_longer_side():
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:, :32], frame[:, 64:] = 100, 200
    spec = InputSpec(height=32, width=32, sampling=Sampling(frames=2, crops=3))
    found = decode_video(encode_video([frame] * 2, **EXACT), spec, LIMITS)
    assert np.abs(found.pixels.mean(axis=(1, 2, 3, 4)) - [100, 0, 200]).max() < 3
    assert found.frames.tolist() == [[0, 1]] * 3


def test_a_limit_is_kept_before_a_frame_is_decoded():
    long = encode_video([np.zeros((16, 16, 3), np.uint8)] * 3, times=[0, 40, 7_200_000], container="matroska")
    with pytest.raises(InputTooLargeError, match=r"lasts 7,200 s, the limit is 600 s; shorten it"):
        decode_video(long, SPEC, LIMITS)
    wide = encode_video([np.zeros((4320, 7680, 3), np.uint8)], codec="mpeg4", container="mp4")
    with pytest.raises(InputTooLargeError, match=r"7680x4320 = 33,177,600 pixels, the limit is 9,000,000; shrink it"):
        decode_video(wide, SPEC, LIMITS)
    video = encode_video(moving_square())
    with pytest.raises(InputTooLargeError, match="at least 24 frames, the limit is 23; shorten it"):
        decode_video(video, SPEC, VideoLimits(max_frames=23))
    with pytest.raises(InputTooLargeError, match=f"{len(video):,} bytes, the limit is 1,000"):
        decode_video(video, SPEC, VideoLimits(max_bytes=1000))


def _noise() -> bytes:
    """A video that takes tens of milliseconds to decode."""
    return encode_video([np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)] * 40, codec="mpeg4")


def test_a_slow_video_is_refused_in_time_and_a_stopped_one_at_once():
    video = _noise()
    with pytest.raises(InputTooLargeError, match=r"more than 0.001 s, which is the limit; shorten or shrink it"):
        decode_video(video, SPEC, VideoLimits(decode_seconds=0.001))
    asked = iter([False])
    with pytest.raises(InputError, match="cancelled"):
        decode_video(video, SPEC, LIMITS, is_cancelled=lambda: next(asked, None) is not False)


def test_whatever_else_goes_wrong_in_decoding_is_said_to_be_the_videos_fault():
    asked = iter([False])  # the second question raises
    with pytest.raises(UnreadableInputError, match="the video is damaged: "):
        decode_video(_noise(), _with(clips=4), LIMITS, is_cancelled=lambda: next(asked))


def test_what_is_no_video_is_refused_by_format():
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    for data in (png(draw_shape(0, np.random.default_rng(0))), b"plain text, nothing else", playlist):
        with pytest.raises(UnsupportedFormatError, match="not a video in a supported format"):
            decode_video(data, SPEC, LIMITS)


def test_a_video_that_is_cut_off_is_refused_and_one_lost_frame_is_reported():
    video = encode_video(moving_square(60), container="avi", codec="mjpeg", pixels="yuvj420p")
    with pytest.raises(UnreadableInputError, match="damaged or cut off"):
        decode_video(video[: len(video) * 2 // 3], _with(clips=4), LIMITS)
    with pytest.raises(UnreadableInputError, match=r"header is damaged|no frames|no video"):
        decode_video(video[:200], SPEC, LIMITS)


@budget(max_examples=40)
@given(st.data())
def test_a_damaged_video_is_answered_or_refused_in_one_line(data):
    good = bytearray(_DAMAGED)
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        found = decode_video(bytes(good[:cut] if cut % 3 == 0 else good), SPEC, LIMITS)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert found.pixels.shape == (1, 8, 48, 64, 3)


_DAMAGED = encode_video(moving_square(16), options={"g": "5"})


def test_limits_and_samplings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="max_frames is 0"):
        VideoLimits(max_frames=0)
    with pytest.raises(ConfigError, match="decode_seconds is -1"):
        VideoLimits(decode_seconds=-1)
    with pytest.raises(ConfigError, match=r"Sampling.frames is 0"):
        Sampling(frames=0)
    with pytest.raises(ConfigError, match="expected 'crop'"):
        InputSpec(height=8, width=8, fit="stretch", sampling=Sampling(frames=2, crops=3))


@pytest.mark.data
def test_every_odd_video_is_answered_or_refused_as_its_index_says(data_folder):
    index = (data_folder / "odd-media" / "index.tsv").read_text().splitlines()
    rows = list(csv.DictReader(index, delimiter="\t"))
    videos = [row for row in rows if row["file"].startswith("videos/")]
    assert len(videos) > 20
    for row in videos:
        data, started = (data_folder / "odd-media" / row["file"]).read_bytes(), time.monotonic()
        try:
            found = decode_video(data, _with(clips=3), LIMITS)
        except InputError as error:
            assert row["status"] == "corrupt" or "codec is indeo4" in str(error), (row["file"], error)
            assert "\n" not in str(error)
        else:
            assert found.pixels.shape == (3, 8, 48, 64, 3)
            observed = row["observed (Pillow 3 GB cap, images; PyAV, videos)"]
            assert f"n={found.found} " in observed or found.lost or " streams=6" in observed, row["file"]
        assert time.monotonic() - started < 10, row["file"]
