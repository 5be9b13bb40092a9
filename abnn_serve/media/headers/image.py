"""Reads the header of an image of any supported format."""

from __future__ import annotations

from abnn_serve.media.headers.avif import is_avif, read_avif
from abnn_serve.media.headers.bmp import is_bmp, read_bmp
from abnn_serve.media.headers.gif import is_gif, read_gif
from abnn_serve.media.headers.header import Header
from abnn_serve.media.headers.jpeg import is_jpeg, read_jpeg
from abnn_serve.media.headers.png import is_png, read_png
from abnn_serve.media.headers.tiff import is_tiff, read_tiff
from abnn_serve.media.headers.webp import is_webp, read_webp

_FORMATS = (
    (is_jpeg, read_jpeg),
    (is_png, read_png),
    (is_webp, read_webp),
    (is_bmp, read_bmp),
    (is_gif, read_gif),
    (is_tiff, read_tiff),
    (is_avif, read_avif),
)


def read_header(data: bytes) -> Header:
    """Read an image's header in time that its bytes bound, without Pillow.

    A damaged header, or that of another format, gives a Header that is not plain.

    Raises:
        InputTooLargeError: the header declares more segments, chunks, tiles or scans than any encoder writes.
        UnsupportedFormatError: a HEIC image.
    """
    return next((read(data) for is_format, read in _FORMATS if is_format(data)), Header())
