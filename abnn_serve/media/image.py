"""Decodes images under limits to RGB, and scales them to a model's input size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from abnn_serve.errors import (
    InputTooLargeError,
    UnreadableInputError,
    UnsupportedFormatError,
    one_line,
)
from abnn_serve.media.headers.header import Header
from abnn_serve.media.headers.image import read_header
from abnn_serve.media.limits import ImageLimits
from abnn_serve.spec import InputSpec

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
_PIECE_PIXELS = 2**20

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoding processes start no threads


def open_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read an image's header without decoding its pixels.

    Raises:
        InputTooLargeError: the file exceeds `limits`.
        UnsupportedFormatError: the format is not in FORMATS.
        UnreadableInputError: the file is empty, or its header is damaged.
    """
    check_header(data, limits)
    return _open_sized(data, limits)


def check_header(data: bytes, limits: ImageLimits) -> Header:
    """Read an image's header without Pillow, in time that its bytes bound; errors as `open_image`."""
    limits.check_bytes(len(data))
    if not data:
        raise UnreadableInputError("the file is empty, expected an image")
    header = read_header(data)
    limits.check_size(header.width, header.height, header.pixels)
    return header


def to_pixels(image: Image.Image) -> Image.Image:
    """Decode the first frame of an opened image as an RGB Pillow image.

    Applies the EXIF orientation, composites transparency over black, and scales 16-bit greyscale to 8 bits.

    Raises:
        UnreadableInputError: the image is truncated or damaged.
    """
    try:
        image.load()
        return _to_rgb(_upright(image))
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged data.
        raise UnreadableInputError(f"the {image.format} image is damaged: {one_line(error)}") from error


def decode_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode the first frame of an encoded image as RGB; errors as `open_image` and `to_pixels`."""
    return to_pixels(open_image(data, limits))


def fit_image(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Scale and crop an RGB image to uint8 (spec.height, spec.width, 3)."""
    size = (spec.width, spec.height)
    if image.size != size:
        method = Image.Resampling[spec.interpolation.upper()]
        image = ImageOps.fit(image, size, method) if spec.fit == "crop" else image.resize(size, method)
    return np.asarray(image, dtype=np.uint8)


def quiet_pillow() -> None:
    """Suppress Pillow's warnings about odd metadata in this process; call once at its start."""
    warnings.filterwarnings("ignore", module=r"PIL\..*")


def load_image(data: bytes, spec: InputSpec, limits: ImageLimits, *, is_checked: bool = False) -> NDArray[np.uint8]:
    """Decode an encoded image to a model's input, uint8 (spec.height, spec.width, 3); errors as `decode_image`.

    Args:
        data: the encoded file.
        spec: the model's input.
        limits: limits for the file.
        is_checked: `check_header` has accepted the data.
    """
    image = _open_sized(data, limits) if is_checked else open_image(data, limits)
    return fit_image(to_pixels(image), spec)


def load_if_plain(data: bytes, spec: InputSpec, limits: ImageLimits, max_pixels: int) -> NDArray[np.uint8] | Header:
    """As `load_image` if the header proves that decoding is cheap, see `Header.is_plain`; else only the header.

    Args:
        data: the encoded file.
        spec: the model's input.
        limits: limits for the file.
        max_pixels: images of more pixels are not cheap.
    """
    header = check_header(data, limits)
    if not header.is_plain or header.pixels > max_pixels:
        return header
    return load_image(data, spec, limits, is_checked=True)


def _open_sized(data: bytes, limits: ImageLimits) -> Image.Image:
    image = _open(data)
    limits.check_size(*image.size)
    return image


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES) or data[8:12] == b"WEBP" or data[4:12] in (b"ftypavif", b"ftypavis"):
            raise UnreadableInputError("the image's header is damaged") from None
        raise UnsupportedFormatError(f"not an image in a supported format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise InputTooLargeError("the image has more pixels than Pillow decodes; shrink it") from None
    except Exception as error:
        raise UnreadableInputError(f"the image's header is damaged: {one_line(error)}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # with a damaged EXIF block the pixels are still valid
        return image
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _in_pieces(image, _grey16_to_rgb)
    if image.has_transparency_data:
        return _in_pieces(image, _over_black)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_pieces(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image piece by piece: the intermediate copies of 40 megapixels would take a gigabyte."""
    result = Image.new("RGB", image.size)
    columns = min(image.width, _PIECE_PIXELS)
    rows = _PIECE_PIXELS // columns
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            box = (left, top, min(left + columns, image.width), min(top + rows, image.height))
            result.paste(to_rgb(image.crop(box)), box[:2])
    return result


def _over_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    grey = np.asarray(image, dtype=np.float32)
    scale = 257.0 if image.mode.startswith("I") else 1.0
    return Image.fromarray(np.clip(np.rint(grey / scale), 0, 255).astype(np.uint8)).convert("RGB")
