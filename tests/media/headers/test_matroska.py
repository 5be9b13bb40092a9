from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import InputTooLargeError
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.spec import InputSpec, Sampling
from tests.drawing import moving_square
from tests.media.matroska import mkv_of

SPEC = InputSpec(height=48, width=64, sampling=Sampling(frames=4))


def _frames() -> list[bytes]:
    frames = []
    for pixels in moving_square(4):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        frames.append(out.getvalue())
    return frames


@pytest.mark.parametrize("compression", ["stripped", "zlib"])
def test_packets_that_are_stored_without_their_beginning_or_deflated_are_decoded(compression):
    frames = _frames()
    size = Image.open(io.BytesIO(frames[0])).size
    plain, packed = (
        decode_video(mkv_of(frames, size, how, prefix=frames[0][:20]), SPEC, VideoLimits())
        for how in ("none", compression)
    )
    assert plain.found == packed.found == 4
    np.testing.assert_array_equal(plain.pixels, packed.pixels)


@pytest.mark.parametrize("compression", ["stripped", "zlib"])
def test_packets_count_with_the_bytes_that_they_have_when_unpacked(compression):
    frame = _frames()[0]
    padded = frame[:-2] + bytes(1_000_000) + frame[-2:]
    video = mkv_of([padded] * 200, (64, 48), compression, prefix=padded[:-2])
    assert len(video) < 1_300_000
    with pytest.raises(InputTooLargeError, match="the video's packets have at least 5"):
        decode_video(video, SPEC, VideoLimits(max_bytes=50_000_000))
