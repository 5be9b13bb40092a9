"""What an image's header says about the cost of decoding it."""

from __future__ import annotations

from dataclasses import dataclass

from abnn_serve.errors import InputTooLargeError

FOURTH_CHANNEL = (
    2  # cost of transparency or CMYK: Pillow copies the pixels to drop it, and an RGB image has as many bytes
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Header of one image.

    Attributes:
        format: `JPEG`, `PNG`, `WEBP`, `BMP`, `GIF`, `TIFF` or `AVIF`; empty if the data are none of these.
        width: declared width; 0 if the header does not say.
        height: declared height; 0 if the header does not say.
        pixels: pixels that decoding touches; more than width * height if tiles or frames exceed the image,
            or if it has a fourth channel.
        is_plain: the header proves that decoding costs no more than a few passes over the bytes and these pixels.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    pixels: int = 0
    is_plain: bool = False


def check_count(count: int, limit: int, what: str) -> None:
    """Raise InputTooLargeError if `count` exceeds `limit`; `what` completes the sentence "the image has 5 ..."."""
    if count > limit:
        raise InputTooLargeError(f"the image has more than {limit:,} {what}, which is the limit; save it again")
