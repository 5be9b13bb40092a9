from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import InputTooLargeError
from abnn_serve.media.headers.image import read_header
from abnn_serve.media.image import decode_image
from abnn_serve.media.limits import ImageLimits
from tests.media.crafted import (
    after_first_segment,
    animated_webp,
    gif_with,
    jpeg,
    many_scans,
    png_chunk,
    png_with,
    striped_tiff,
    tiled_tiff,
)

LIMITS = ImageLimits()
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiled_tiff((1, 5000), (1_000_000, 16), 313), "costs as much as 5,008,000,000"),
        (tiled_tiff((1, 1), (32_768, 32_768), 1), "costs as much as 1,073,741,824"),
        (striped_tiff(500_000), "more than 32,768 TIFF tiles or strips"),
        (many_scans(200, multi_picture=True), r"JPEG image has 2\d\d scans, the limit is 100"),
        (after_first_segment(b"\xff" * 1_000_000), "more than 4,096 bytes between its JPEG segments"),
        (after_first_segment(b"\x00" * 5000), "more than 4,096 bytes between its JPEG segments"),
        (after_first_segment(b"\xff\xe5\x00\x02" * 250_000), "more than 1,000 JPEG segments"),
        (png_with(png_chunk(b"abCd") * 80_000), "more than 20,000 PNG chunks"),
        (gif_with(b"!\xfe" + b"\x01x" * 500_000 + b"\0"), "more than 10,000 GIF blocks"),
        (gif_with(b"\x00" * 500_000), "more than 10,000 GIF blocks"),
        (animated_webp(6320, 6320), "costs as much as 159,769,600"),
    ],
    ids=["tiles", "tile", "strips", "mpo", "fill", "junk", "segments", "chunks", "gif-blocks", "gif-junk", "webp"],
)
def test_a_small_file_that_costs_much_is_rejected_by_its_header(data, message):
    with pytest.raises(InputTooLargeError, match=message):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_header_gives_format_and_size_of_every_format(kind, mode):
    header = read_header(_encode(Image.new(mode, (40, 30)), kind))
    assert (header.format, header.width, header.height) == (kind, 40, 30)
    assert header.pixels >= 1200
    assert header.is_plain == (kind not in {"GIF", "TIFF", "AVIF"})


@pytest.mark.parametrize(
    "data",
    [
        jpeg(progressive=True),
        many_scans(5, multi_picture=True),
        after_first_segment(b"\xff\xe5\x00\x02" * 100),
        after_first_segment(b"\xff\xff"),
        jpeg() + jpeg(),
        _encode(Image.new("CMYK", (8, 8)), "JPEG"),
        png_with(png_chunk(b"acTL", bytes(8))),
        png_with(png_chunk(b"tEXt", b"a\0b") * 40),
        png_with(png_chunk(b"tEXt", b"a\0" + bytes(300_000))),
        animated_webp(8, 8),
        _encode(Image.new("RGB", (8, 8)), "TIFF"),
        b"BM" + bytes(100),
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"II*\0",
        b"II+\0" + b"\xff" * 20,
        b"RIFF\0\0\0\0WEBP",
        b"hello",
        b"",
    ],
)
def test_an_image_whose_header_proves_nothing_is_not_plain(data):
    assert not read_header(data).is_plain


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("WEBP", "RGBA", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "CMYK", {}),
        ("JPEG", "CMYK", {}),
    ],
)
def test_a_fourth_channel_counts_as_a_second_image_because_pillow_copies_it_to_drop_it(kind, mode, options):
    header = read_header(_encode(Image.new(mode, (40, 30)), kind, **options))
    assert (header.width, header.height, header.pixels) == (40, 30, 2400)


def test_separate_planes_and_rows_of_a_strip_count_into_the_pixels_of_a_tiff():
    data = _encode(Image.new("RGB", (100, 70)), "TIFF", compression="tiff_deflate")
    assert read_header(data).pixels == 7000


@pytest.mark.parametrize("big", [False, True])
def test_big_tiff_is_read_as_tiff(big):
    header = read_header(_encode(Image.new("RGB", (100, 70)), "TIFF", big_tiff=big))
    assert (header.width, header.height) == (100, 70)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_header_is_read_or_rejected_and_never_crashes(kind):
    rng = np.random.default_rng(0)
    good = _encode(Image.new("RGB", (40, 30)), kind)
    for _ in range(2000):
        data = bytearray(good[: int(rng.integers(1, len(good) + 1))])
        for at in rng.integers(0, min(len(data), 64), 4):
            data[at] = rng.integers(0, 256)
        try:
            read_header(bytes(data))
        except InputTooLargeError as error:
            assert "\n" not in str(error)


_PEAK = """
import io, resource, sys
from PIL import Image
from abnn_serve.media.image import decode_image
from abnn_serve.media.limits import ImageLimits
out = io.BytesIO()
Image.new("RGBA", (int(sys.argv[1]), int(sys.argv[2])), (9, 9, 9, 9)).save(out, "PNG", compress_level=1)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode_image(out.getvalue(), ImageLimits())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
"""


def test_a_wide_image_takes_no_more_memory_than_a_square_one_of_its_area():
    peaks = {}
    for width, height in ((2828, 2828), (31_240, 256)):
        run = subprocess.run(
            [sys.executable, "-c", _PEAK, str(width), str(height)], capture_output=True, check=True, text=True
        )
        peaks[width] = int(run.stdout)
    assert peaks[31_240] <= 1.3 * peaks[2828]
