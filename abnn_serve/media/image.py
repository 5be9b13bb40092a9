"""Decodes images under limits to RGB, and scales them to a model's input size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from abnn_serve.errors import (
    ConfigError,
    InputTooLargeError,
    UnreadableInputError,
    UnsupportedFormatError,
    one_line,
)
from abnn_serve.spec import InputSpec

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
_STRIP_ROWS = 256
_JPEG_SCAN = b"\xff\xda"
_MAX_SCANS = 100  # each scan costs a pass over all pixels; encoders write about ten
_PILLOW_MAX_PIXELS = 178_956_970  # larger images raise DecompressionBombError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Limits that are checked before any pixel is decoded.

    Attributes:
        max_bytes: size of the encoded file, at least 1.
        max_pixels: width times height as declared in the header, 1 to 178,956,970.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 40_000_000

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
        if self.max_pixels > _PILLOW_MAX_PIXELS:
            raise ConfigError(f"max_pixels is {self.max_pixels:,}, expected at most {_PILLOW_MAX_PIXELS:,}")


def open_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read an image's header without decoding its pixels.

    Raises:
        InputTooLargeError: the file exceeds `limits`.
        UnsupportedFormatError: the format is not in FORMATS.
        UnreadableInputError: the file is empty, or its header is damaged.
    """
    if len(data) > limits.max_bytes:
        raise InputTooLargeError(
            f"the image has {len(data):,} bytes, the limit is {limits.max_bytes:,}; compress or shrink it"
        )
    if not data:
        raise UnreadableInputError("the file is empty, expected an image")
    image = _open(data)
    scans = data.count(_JPEG_SCAN) if image.format == "JPEG" else 0
    if scans > _MAX_SCANS:
        raise InputTooLargeError(
            f"the JPEG image has {scans:,} scans, the limit is {_MAX_SCANS}; save it again without progressive scans"
        )
    width, height = image.size
    if width * height > limits.max_pixels:
        raise InputTooLargeError(
            f"the image has {width}x{height} = {width * height:,} pixels, the limit is {limits.max_pixels:,}; shrink it"
        )
    return image


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


def load_image(data: bytes, spec: InputSpec, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode an encoded image to a model's input, uint8 (spec.height, spec.width, 3); errors as `decode_image`."""
    return fit_image(decode_image(data, limits), spec)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES) or data[8:12] == b"WEBP":
            raise UnreadableInputError("the image's header is damaged") from None
        raise UnsupportedFormatError(f"not an image in a supported format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise InputTooLargeError(
            f"the image has more than {_PILLOW_MAX_PIXELS:,} pixels, which is the limit; shrink it"
        ) from None
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
        return _in_strips(image, _grey16_to_rgb)
    if image.has_transparency_data:
        return _in_strips(image, _over_black)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_strips(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image strip by strip: the intermediate copies of 40 megapixels would take a gigabyte."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        result.paste(to_rgb(strip), (0, top))
    return result


def _over_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    grey = np.asarray(image, dtype=np.float32)
    scale = 257.0 if image.mode.startswith("I") else 1.0
    return Image.fromarray(np.clip(np.rint(grey / scale), 0, 255).astype(np.uint8)).convert("RGB")
