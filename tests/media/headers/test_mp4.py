from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import InputTooLargeError, UnreadableInputError, UnsupportedFormatError
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import encode_video, moving_square
from tests.media.crafted import (
    box,
    full_box,
    many_scans,
    mov_of,
    mp4_with,
    mp4_with_box_in_track,
    overlapping_packets,
)

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


TABLE = box(b"stsz", full_box(1, 80_000_000))


def _nested(depth: int) -> bytes:
    return TABLE if not depth else box(b"udta", _nested(depth - 1))


def _described(video: bytes) -> bytes:
    """The video with the table inside of the description of its samples, which follows all tables."""
    start = video.index(b"stbl") + 4
    tables = video[start : start + int.from_bytes(video[start - 8 :][:4], "big") - 8]
    at = tables.index(b"stsd") - 4
    size = int.from_bytes(tables[at:][:4], "big")
    entry = tables[at + 16 : at + size]
    entry = (len(entry) + len(TABLE)).to_bytes(4, "big") + entry[4:] + TABLE
    return mp4_with(video, {b"stbl": tables[:at] + tables[at + size :] + box(b"stsd", tables[at + 8 :][:8] + entry)})


@pytest.mark.parametrize("kind", [b"tref", b"mvex", b"sinf", b"schi", b"wave", b"ilst", b"dinf", b"udta"])
def test_a_table_is_found_wherever_ffmpeg_would_read_it(kind):
    video = mp4_with_box_in_track(encode_video(moving_square()), box(kind, TABLE))
    with pytest.raises(InputTooLargeError, match="have 80,000,024 entries"):
        decode_video(video, SPEC, LIMITS)


@pytest.mark.parametrize("depth", [1, 7, 9])
def test_a_table_is_found_at_any_depth(depth):
    with pytest.raises(InputTooLargeError, match="have 80,000,024 entries"):
        decode_video(mp4_with_box_in_track(encode_video(moving_square()), _nested(depth)), SPEC, LIMITS)


def test_a_table_is_found_behind_the_handler_that_ffmpeg_looks_for():
    hidden = box(b"meta", bytes(4) + box(b"free", box(b"hdlr", bytes(25)) + TABLE))
    with pytest.raises(InputTooLargeError, match="have 80,000,024 entries"):
        decode_video(mp4_with_box_in_track(encode_video(moving_square()), hidden), SPEC, LIMITS)


@pytest.mark.parametrize("name", [b"hoov", b"free"])
def test_a_header_under_a_name_that_ffmpeg_takes_for_one_is_read(name):
    video = mp4_with(encode_video(moving_square()), {b"stsz": full_box(1, 80_000_000)}).replace(b"moov", name)
    with pytest.raises(InputTooLargeError, match="have 80,000,000 entries"):
        decode_video(video, SPEC, LIMITS)


def test_a_table_in_an_odd_place_is_refused():
    video = encode_video(moving_square())
    for odd in (mp4_with_box_in_track(video, box(b"uuid", bytes(16) + TABLE)), video + box(b"abcd", TABLE)):
        with pytest.raises(UnreadableInputError, match="tables of samples in odd places"):
            decode_video(odd, SPEC, LIMITS)
    with pytest.raises(UnreadableInputError, match="the description of its samples has tables"):
        decode_video(_described(video), SPEC, LIMITS)


def test_an_earlier_header_that_was_overwritten_does_not_count():
    video = encode_video(moving_square())
    for kept in (video + box(b"free", TABLE), mp4_with_box_in_track(video, box(b"skip", TABLE))):
        assert decode_video(kept, SPEC, LIMITS).found == 24


@pytest.mark.parametrize("kind", [b"stts", b"ctts", b"stsc", b"stco", b"stss"])
def test_a_table_that_declares_more_entries_than_it_has_is_rejected(kind):
    video = mp4_with_box_in_track(encode_video(moving_square()), box(kind, full_box(0x73747473)))
    with pytest.raises(InputTooLargeError, match="have 1,937,011,827 entries"):
        decode_video(video, SPEC, LIMITS)


@pytest.mark.parametrize(
    "table",
    [
        box(b"iinf", b"\1" + bytes(3) + (1 << 27).to_bytes(4, "big")),
        box(b"iloc", b"\2" + bytes(5) + b"\x08" + bytes(3)),
    ],
)
def test_tables_of_images_beside_the_video_count(table):
    video = mp4_with_box_in_track(encode_video(moving_square()), table)
    with pytest.raises(InputTooLargeError, match="have 134,217,728 entries"):
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


def _with_sound() -> bytes:
    """A MOV file of 24 frames and as many chunks of uncompressed sound, the first track."""
    out = io.BytesIO()
    with av.open(out, "w", format="mov") as file:
        sound = file.add_stream("pcm_s16le", rate=48_000, layout="mono")
        picture = file.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for index in range(24):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), layout="mono")
            samples.sample_rate, samples.pts = 48_000, 1920 * index
            file.mux(sound.encode(samples))
            file.mux(picture.encode(av.VideoFrame.from_ndarray(moving_square()[index])))
        file.mux(picture.encode(None))
    return out.getvalue()


def test_uncompressed_sound_has_a_sample_for_each_of_its_ticks_and_is_accepted():
    found = decode_video(_with_sound(), SPEC, VideoLimits(max_frames=100))
    assert found.found == 24


@pytest.mark.parametrize("runs", [(1, 2_000_000_000, 1), (2, 1, 1, 1, 2_000_000_000, 1)])
def test_a_chunk_of_sound_that_declares_billions_of_samples_is_rejected(runs):
    video = mp4_with(_with_sound(), {b"stsc": full_box(len(runs) // 3, *runs), b"stco": full_box(40, *[60] * 40)})
    with pytest.raises(InputTooLargeError, match=r"have \d00,000,0\d\d entries"):
        decode_video(video, SPEC, LIMITS)


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
