from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import InputTooLargeError, UnsupportedFormatError
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import encode_video, moving_square
from tests.media.crafted import full_box, many_scans, mov_of, mp4_with, overlapping_packets

SPEC = InputSpec(height=48, width=64, sampling=Sampling(frames=8))
LIMITS = VideoLimits()


def _png_frame(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "PNG")
    return out.getvalue()


def test_a_table_that_declares_millions_of_samples_is_rejected_before_ffmpeg_expands_it():
    video = mp4_with(encode_video(moving_square()), {b"stsz": full_box(1, 80_000_000)})
    assert len(video) < 10_000
    with pytest.raises(InputTooLargeError, match="have 80,000,000 entries, the limit is 1,000,000"):
        decode_video(video, SPEC, LIMITS)


def test_edits_multiply_the_entries_of_a_table():
    edits = full_box(50_000, *[40, 0, 0x10000] * 50_000)
    video = mp4_with(encode_video(moving_square()), {b"elst": edits})
    with pytest.raises(InputTooLargeError, match="have 1,200,000 entries, the limit is 1,000,000"):
        decode_video(video, SPEC, LIMITS)


def test_fragments_that_declare_millions_of_samples_are_rejected():
    video = encode_video(moving_square(), options={"movflags": "frag_keyframe+empty_moov"})
    run = full_box(80_000_000)
    fragment = b"\0\0\0\x14trun" + run.ljust(12, b"\0")
    track = (len(fragment) + 8).to_bytes(4, "big") + b"traf" + fragment
    video += (len(track) + 8).to_bytes(4, "big") + b"moof" + track
    with pytest.raises(InputTooLargeError, match=r"have 80,000,\d\d\d entries"):
        decode_video(video, SPEC, LIMITS)


def test_a_compressed_header_is_an_unsupported_format():
    video = encode_video(moving_square()) + b"\0\0\0\x10moov\0\0\0\x08cmov"
    with pytest.raises(UnsupportedFormatError, match="the video's header is compressed"):
        decode_video(video, SPEC, LIMITS)


def test_uncompressed_sound_has_a_sample_for_each_of_its_ticks_and_is_accepted():
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as file:
        picture = file.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=48_000, layout="mono")
        for index in range(24):
            file.mux(picture.encode(av.VideoFrame.from_ndarray(moving_square()[index])))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), layout="mono")
            samples.sample_rate, samples.pts = 48_000, 1920 * index
            file.mux(sound.encode(samples))
        file.mux(picture.encode(None))
    found = decode_video(out.getvalue(), SPEC, VideoLimits(max_frames=100))
    assert found.found == 24


def test_packets_that_overlap_in_the_file_count_each_time():
    with pytest.raises(InputTooLargeError, match="the video's packets have at least"):
        decode_video(overlapping_packets(200), SPEC, VideoLimits(max_bytes=200_000))


def test_a_codec_that_is_not_listed_is_rejected_by_name_before_a_frame_of_it_is_decoded():
    video = mov_of([_png_frame(4000)], "png")
    with pytest.raises(UnsupportedFormatError, match="the video's codec is png, expected one of h264, hevc"):
        decode_video(video, SPEC, LIMITS)


@pytest.mark.parametrize(("container", "codec"), [("avi", "ffv1"), ("avi", "snow"), ("avi", "huffyuv")])
def test_codecs_of_archives_and_of_no_camera_are_rejected_by_name(container, codec):
    pixels = "yuv420p" if codec == "snow" else "yuv422p"
    video = encode_video(moving_square(4), container=container, codec=codec, pixels=pixels, options={"strict": "-2"})
    with pytest.raises(UnsupportedFormatError, match=f"the video's codec is {codec}"):
        decode_video(video, SPEC, LIMITS)


def test_the_scans_of_a_jpeg_frame_are_counted_before_it_is_decoded():
    assert decode_video(mov_of([many_scans(5)] * 3, "mjpeg", (64, 64)), SPEC, LIMITS).found == 3
    with pytest.raises(InputTooLargeError, match=r"the JPEG image has 4\d,\d\d\d scans, the limit is 100"):
        decode_video(mov_of([many_scans(40_000)], "mjpeg", (64, 64)), SPEC, LIMITS)
