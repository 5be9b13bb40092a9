"""Headers of AVIF images: sizes of all their items, files that declare too much, and HEIC."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from abnn_serve.errors import InputError, InputTooLargeError, UnsupportedFormatError
from abnn_serve.media.headers.image import read_header
from abnn_serve.media.image import decode_image, load_image
from abnn_serve.media.limits import ImageLimits
from abnn_serve.spec import InputSpec

LIMITS = ImageLimits()


def avif(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "AVIF", codec="aom", max_threads=1, speed=10, **options)
    return out.getvalue()


SMALL = avif(Image.new("RGB", (40, 30), "red"))


def _with_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def test_the_first_frame_of_an_animation_and_transparency_over_black_are_decoded():
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    animated = avif(frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(decode_image(animated, LIMITS)).astype(int) - [255, 0, 0]).max() < 16
    clear = avif(Image.new("RGBA", (16, 16), (255, 255, 255, 0)))
    assert np.asarray(decode_image(clear, LIMITS)).max() < 8


def test_pixels_are_those_of_the_image_within_its_compression():
    drawn = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    pixels = load_image(avif(drawn, quality=95), InputSpec(height=64, width=64), LIMITS)
    assert np.abs(pixels.astype(int) - np.asarray(drawn)).mean() < 6


def test_alpha_and_deep_pixels_count_twice():
    assert read_header(SMALL).pixels == 1200
    assert read_header(avif(Image.new("RGBA", (40, 30), (9, 9, 9, 9)))).pixels == 2400
    at = SMALL.index(b"av1C") + 6
    assert read_header(SMALL[:at] + bytes([SMALL[at] | 0x40]) + SMALL[at + 1 :]).pixels == 2400


@pytest.mark.parametrize("size", [(65_535, 65_535), (40_000_001, 1), (2**31, 2**31)])
def test_a_small_file_that_declares_many_pixels_is_rejected_by_its_header(size):
    with pytest.raises(InputTooLargeError, match="pixels"):
        decode_image(_with_size(SMALL, *size), LIMITS)


def test_many_items_boxes_and_frames_are_rejected_by_the_header():
    at = SMALL.index(b"ipma") + 8
    many = SMALL[:at] + struct.pack(">I", 2_000_000_000) + SMALL[at + 4 :]
    with pytest.raises(InputTooLargeError, match="more than 1,024 AVIF items"):
        decode_image(many, LIMITS)
    with pytest.raises(InputTooLargeError, match="more than 4,096 AVIF boxes"):
        decode_image(SMALL + struct.pack(">I4s", 8, b"free") * 5000, LIMITS)
    table = struct.pack(">I4sIII", 20, b"stsz", 0, 1, 4_000_000_000)
    with pytest.raises(InputTooLargeError, match="tables and edit lists have 4,000,000,000 entries"):
        decode_image(SMALL + struct.pack(">I4s", 8 + len(table), b"moov") + table, LIMITS)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"heix"])
def test_heic_is_refused_by_name(brand):
    data = struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, brand) + bytes(40)
    with pytest.raises(UnsupportedFormatError, match="HEIC images are not supported; save the image as JPEG or AVIF"):
        decode_image(data, LIMITS)


def test_a_damaged_file_is_an_input_error_and_never_another():
    rng = np.random.default_rng(5)
    for _ in range(300):
        data = bytearray(SMALL)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.choice([0, 1, 2, 255, rng.integers(256)])
        with contextlib.suppress(InputError):
            decode_image(bytes(data[: rng.integers(8, len(data) + 1)]), LIMITS)
