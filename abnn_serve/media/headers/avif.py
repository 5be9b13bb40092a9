"""The header of an AVIF file: the boxes that declare its items and their sizes (ISO/IEC 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator

from abnn_serve.errors import UnsupportedFormatError
from abnn_serve.media.headers.header import Header, check_count
from abnn_serve.media.headers.mp4 import check_mp4
from abnn_serve.media.headers.mp4_boxes import sibling_boxes

_AVIF, _HEIC = (b"avif", b"avis"), (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_MAX_BOXES = 4096
_MAX_ITEMS = 1024  # libavif takes 66,000 tiles; an encoder that splits 40 megapixels writes some dozens
_MAX_FRAMES = 10_000  # of an animation
_HIGH_BIT_DEPTH = 0x40  # of av1C: 10 or 12 bits, which take twice the memory


def is_avif(data: bytes) -> bool:
    """Whether the data begin as an image file of ISO's base format: AVIF, or HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in _AVIF + _HEIC


def read_avif(data: bytes) -> Header:
    """Read the header of AVIF data; `pixels` is the area of all coded items: tiles, alpha, thumbnails.

    Raises:
        InputTooLargeError: too many boxes, items or frames.
        UnsupportedFormatError: a HEIC file.
    """
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(_u32(data, 0), 256), 4))}
    if not brands & set(_AVIF):
        raise UnsupportedFormatError("HEIC images are not supported; save the image as JPEG or AVIF")
    check_mp4(data, _MAX_FRAMES)
    sizes: list[tuple[int, int]] = []  # one for each property, from 1; (0, 0) for other properties
    coded: set[int] = set()
    used: dict[int, set[int]] = {}
    primary, is_deep = 0, False
    for count, (kind, body) in enumerate(_boxes(data, 0, len(data))):
        check_count(count, _MAX_BOXES, "AVIF boxes")
        if kind == b"pitm":
            primary = _u32(body, 4) if body[:1] > b"\0" else _u16(body, 4)
        elif kind == b"infe" and _item_type(body) == b"av01":
            coded.add(_item_id(body))
            check_count(len(coded), _MAX_ITEMS, "AVIF items")
        elif kind == b"ipma":
            used |= _associations(body)
        elif kind == b"ispe":
            sizes.append((_u32(body, 4), _u32(body, 8)))
        elif kind[:1] == b"(":  # another property
            sizes.append((0, 0))
            is_deep = is_deep or (kind == b"(av1C" and bool(body[2:3] and body[2] & _HIGH_BIT_DEPTH))
    by_item = {
        item: max((sizes[index - 1] for index in indices if 0 < index <= len(sizes)), default=(0, 0))
        for item, indices in used.items()
    }
    width, height = by_item.get(primary, (0, 0))
    areas = [across * down for across, down in (by_item.get(item, (0, 0)) for item in coded)]
    pixels = max(width * height, sum(areas)) * (2 if is_deep else 1)
    return Header(format="AVIF", width=width, height=height, pixels=pixels)


def _boxes(data: bytes, at: int, end: int, parent: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Kind and first bytes of the boxes that declare items; a property other than `ispe` has the kind `(kind`."""
    for kind, start, box_end in sibling_boxes(data, at, end):
        if kind in (b"meta", b"iinf"):
            skipped = 4 if kind == b"meta" else 6 if data[start : start + 1] == b"\0" else 8
            yield from _boxes(data, start + skipped, box_end, kind)
        elif kind in (b"iprp", b"ipco"):
            yield from _boxes(data, start, box_end, kind)
        elif parent == b"ipco":
            yield (kind if kind == b"ispe" else b"(" + kind), data[start : min(box_end, start + 16)]
        elif parent:
            yield kind, data[start:box_end] if kind == b"ipma" else data[start : min(box_end, start + 16)]
        else:
            yield b"", b""  # counts


def _associations(body: bytes) -> dict[int, set[int]]:
    """Indices of the properties of each item, from an `ipma` box."""
    if len(body) < 8:
        return {}
    is_wide_id, is_wide_index = body[0] > 0, bool(body[3] & 1)
    count, at = _u32(body, 4), 8
    check_count(count, _MAX_ITEMS, "AVIF items")
    found: dict[int, set[int]] = {}
    for _ in range(count):
        item = _u32(body, at) if is_wide_id else _u16(body, at)
        at += 4 if is_wide_id else 2
        indices = body[at] if at < len(body) else 0
        at += 1
        for _ in range(indices):
            index = _u16(body, at) & 0x7FFF if is_wide_index else (body[at] if at < len(body) else 0) & 0x7F
            at += 2 if is_wide_index else 1
            found.setdefault(item, set()).add(index)
    return found


def _item_id(body: bytes) -> int:
    return _u32(body, 4) if body[:1] == b"\3" else _u16(body, 4)


def _item_type(body: bytes) -> bytes:
    return body[10:14] if body[:1] == b"\3" else body[8:12]


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
