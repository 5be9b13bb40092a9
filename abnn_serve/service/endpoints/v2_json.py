"""The JSON of the Open Inference Protocol v2, parsed without making an object for each value of a tensor.

`json.loads` takes up to 100 bytes for each byte that a client sends and keeps the GIL until it is done. So the text of
`data` is cut out, and everything else, which is small, is parsed first; then the text of `data` is compared with the
brackets and commas that the shape demands, piece by piece.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputShapeError
from abnn_serve.service.errors import BadRequestError

_MAX_FRAME = 65_536  # bytes of JSON besides `data`
_PIECE = 16_384  # parsed in a quarter of a millisecond, in which no other thread runs
_NEXT_STRING = re.compile(rb'[^"]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*+:\s*+\[)?', re.DOTALL)
_WHITESPACE = b" \t\r\n"
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"0" * 9)

WRONG_DATA = "data must be a list of whole numbers from 0 to 255, flat or nested like the shape"


def parse_json(text: bytes) -> tuple[Any, bytes | None]:
    """Parse a request.

    Returns:
        The request, with an empty list in the place of `data`; and the text of `data`, None if it has no such list.

    Raises:
        BadRequestError: not JSON, over 65,536 bytes besides `data`, or several lists named `data`.
        InputShapeError: `data` holds something other than numbers and lists.
    """
    frame, data = _cut_out_data(text)
    try:
        return json.loads(frame), data
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the request is not JSON: {str(error)[:80]}", field="body") from None


def parse_data(text: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Parse the text of `data`: uint8, of this shape.

    Raises:
        InputShapeError: other values, or not as many as `shape` has.
    """
    count = math.prod(shape)
    commas = sum(text.count(b",", start, start + _PIECE) for start in range(0, len(text), _PIECE))
    if commas != count - 1:
        raise InputShapeError(f"data has {commas + 1:,} values, but shape {list(shape)} needs {count:,}")
    skeleton = _skeleton(shape) if text[1:_PIECE].lstrip(_WHITESPACE).startswith(b"[") else _skeleton((count,))
    values, position = bytearray(), 0
    try:
        for piece in _pieces(text):
            outline = piece.translate(_DIGITS_AS_0, _WHITESPACE)
            marks = outline.translate(None, b"0")
            if b"0[" in outline or b"]0" in outline or skeleton[position : position + len(marks)] != marks:
                raise InputShapeError(WRONG_DATA)
            position += len(marks)
            values += bytes(json.loads(b"[%b]" % piece.translate(None, b"[]").removesuffix(b",")))
    except ValueError:  # not JSON, or over 255
        raise InputShapeError(WRONG_DATA) from None
    if position != len(skeleton) or len(values) != count:
        raise InputShapeError(WRONG_DATA)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _cut_out_data(text: bytes) -> tuple[bytes, bytes | None]:
    """The text with `[]` as the value of `data`, and that value."""
    frame, data, kept_from, position = b"", None, 0, 0
    while True:
        room = _MAX_FRAME - len(frame) - (position - kept_from)
        match = _NEXT_STRING.match(text, position, position + room)
        if not match:
            break
        position = match.end()
        if match[1] != b"data" or match[2] is None:
            continue
        if data is not None:
            raise BadRequestError("the request has several lists named 'data', expected one", field="inputs")
        start = position - 1
        end = _end_of_data(text, start)
        frame, data = frame + text[kept_from:start] + b"[]", text[start:end]
        kept_from = position = end
    if len(text) - kept_from + len(frame) > _MAX_FRAME:
        raise BadRequestError(f"the JSON has over {_MAX_FRAME:,} bytes besides 'data'", field="body")
    return frame + text[kept_from:], data


def _end_of_data(text: bytes, start: int) -> int:
    """The position after the list that begins at `start`; after it comes a key or the end of an object."""
    for window in range(start, len(text), _PIECE):
        if ends := [at for mark in b'"{}:' if (at := text.find(mark, window, window + _PIECE)) >= 0]:
            break
    else:
        raise BadRequestError("the request is not JSON: 'data' has no end", field="body")
    last = text[max(start, min(ends) - _PIECE) : min(ends)]
    data = last.rstrip(_WHITESPACE).removesuffix(b",").rstrip(_WHITESPACE)
    if not data.endswith(b"]"):
        raise InputShapeError(WRONG_DATA)
    return min(ends) - len(last) + len(data)


def _skeleton(shape: tuple[int, ...]) -> bytes:
    """Brackets and commas of an array of this shape in JSON."""
    text = b""
    for size in reversed(shape):
        text = b"[" + b",".join([text] * size) + b"]"
    return text


def _pieces(text: bytes) -> Iterator[bytes]:
    """The text in pieces that end with a comma, except the last."""
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind(b",", start, start + _PIECE) + 1
        if end == 0:
            raise InputShapeError(WRONG_DATA)
        yield text[start:end]
        start = end
    yield text[start:]
