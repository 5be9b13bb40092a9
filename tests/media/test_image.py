from __future__ import annotations

import csv
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from abnn_serve.errors import (
    ConfigError,
    InputError,
    InputTooLargeError,
    UnreadableInputError,
    UnsupportedFormatError,
)
from abnn_serve.media.image import decode_image, fit_image, load_image
from abnn_serve.media.limits import ImageLimits
from abnn_serve.spec import InputSpec
from tests.drawing import draw_shape, png

LIMITS = ImageLimits()


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_every_supported_format_is_decoded(kind):
    image = Image.new("RGB", (40, 30), (200, 30, 30))
    decoded = np.asarray(decode_image(_encode(image, kind), LIMITS)).astype(int)
    assert decoded.shape == (30, 40, 3)
    assert np.abs(decoded - [200, 30, 30]).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_every_colour_mode_becomes_rgb(mode):
    grey = Image.fromarray(np.full((8, 8), 200, np.uint8))
    image = Image.fromarray(np.full((8, 8), 200 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    decoded = np.asarray(decode_image(_encode(image, "PNG"), LIMITS))
    assert decoded.shape == (8, 8, 3)
    assert mode == "1" or (decoded == 200).all()


def test_transparency_is_laid_over_black():
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert (np.asarray(decode_image(_encode(image, "PNG"), LIMITS)) == 0).all()


def test_exif_orientation_is_applied():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    data = _encode(Image.fromarray(pixels), "PNG", exif=exif)
    decoded = np.asarray(decode_image(data, LIMITS))
    assert decoded.shape == (16, 8, 3)
    assert (decoded[:8] == 255).all()


def test_an_empty_file_is_unreadable():
    with pytest.raises(UnreadableInputError, match="the file is empty"):
        decode_image(b"", LIMITS)


@pytest.mark.parametrize("data", [b"hello", b"\x00" * 100, b"<svg/>", b"%PDF-1.7"])
def test_something_else_is_an_unsupported_format(data):
    with pytest.raises(UnsupportedFormatError, match="not an image in a supported format"):
        decode_image(data, LIMITS)


def test_a_truncated_image_is_unreadable():
    data = png(draw_shape(0, np.random.default_rng(0)))
    with pytest.raises(UnreadableInputError, match="the PNG image is damaged"):
        decode_image(data[: len(data) // 2], LIMITS)


def test_too_many_bytes_are_refused():
    with pytest.raises(InputTooLargeError, match="the image has 11 bytes, the limit is 10; compress or shrink it"):
        decode_image(b"x" * 11, ImageLimits(max_bytes=10))


@pytest.mark.parametrize("size", [(7000, 7000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size):
    with pytest.raises(InputTooLargeError):
        decode_image(_png_header(*size), LIMITS)


@pytest.mark.parametrize(("size", "box"), [((64, 32), (16, 0, 48, 32)), ((32, 64), (0, 16, 32, 48))])
def test_crop_takes_the_centre(size, box):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    found = fit_image(image, InputSpec(height=32, width=32))
    assert np.array_equal(found, np.asarray(image.crop(box)))


def test_stretch_ignores_the_aspect_ratio():
    image = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2))
    found = fit_image(image, InputSpec(height=32, width=32, fit="stretch"))
    assert found[0, 0, 0] < 2
    assert found[0, -1, 0] > 60


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_damaged_bytes_are_decoded_or_refused_and_never_crash(data, at, value):
    good = bytearray(png(draw_shape(1, np.random.default_rng(1), 16)))
    good[at % len(good)] = value
    for candidate in (data, bytes(good)):
        try:
            pixels = load_image(candidate, InputSpec(height=8, width=8), LIMITS)
        except InputError:
            continue
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.uint8


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_limits_are_positive_whole_numbers(limit):
    with pytest.raises(ConfigError, match="expected a whole number of at least 1"):
        ImageLimits(max_bytes=limit)


@pytest.mark.data
def test_odd_and_broken_files_are_answered_or_refused_as_their_index_says(data_folder: Path):
    spec = InputSpec(height=32, width=32)
    index = (data_folder / "odd-media" / "index.tsv").read_text().splitlines()
    rows = list(csv.DictReader(index, delimiter="\t"))
    images = [row for row in rows if row["file"].startswith("images/")]
    assert len(images) > 50
    unexpected = []
    for row in images:
        data = (data_folder / "odd-media" / row["file"]).read_bytes()
        readable = row["observed (Pillow 3 GB cap, images; PyAV, videos)"].startswith("ok")
        supported = not any(row["file"].endswith(end) for end in (".j2k", ".heif"))
        try:
            load_image(data, spec, LIMITS)
            outcome = True
        except InputError as error:
            outcome = False
            assert "\n" not in str(error)
        if outcome != (readable and supported):
            unexpected.append((row["file"], outcome))
    assert unexpected == []


def test_a_jpeg_with_thousands_of_scans_is_refused_before_they_are_decoded():
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "JPEG", progressive=True)
    assert decode_image(out.getvalue(), ImageLimits()).size == (64, 64)
    scan = out.getvalue()[out.getvalue().rindex(b"\xff\xda") : -2]
    many = out.getvalue()[:-2] + scan * 5000 + b"\xff\xd9"
    with pytest.raises(InputTooLargeError, match=r"5,0\d\d scans, the limit is 100"):
        decode_image(many, ImageLimits())
