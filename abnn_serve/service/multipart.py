"""Parses a multipart form while its bytes arrive, in time proportional to their number.

Starlette's parser inspects single bytes in Python, and takes 0.3 s for a megabyte of boundaries.
Here `bytes.find` looks for them, and a part too many ends the form before the rest has arrived.
"""

from __future__ import annotations

import re
import sys
from enum import Enum, auto

from abnn_serve.service.errors import BadRequestError, TooManyPartsError, WrongPartError

MAX_TEXTS = 8
_MAX_TEXT = 16_384  # bytes of a text field
_MAX_HEAD = 4096  # bytes of a part's headers
_MAX_HEADERS = 8
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\\]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(rb'\s*+;\s*+([^\s=;"]++)\s*+=\s*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|([^\s;"]*+))', re.DOTALL)


class _State(Enum):
    """What the next bytes are."""

    PREAMBLE = auto()
    BOUNDARY = auto()  # the rest of its line
    HEAD = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class FormParser:
    """The files of one field and all text fields of a form.

    Args:
        content_type: the request's header, which has the boundary.
        field: name of the file field; files of other fields are dropped.
        max_files: files in the form.

    Attributes:
        files: the content of each file of `field`, in pieces.

    Raises:
        BadRequestError: `content_type` has no boundary.
    """

    def __init__(self, content_type: str, field: str, max_files: int) -> None:
        self.files: list[list[bytes]] = []
        self._field, self._max_files = field, max_files
        match = _BOUNDARY.search(content_type)
        if not match:
            raise self._malformed("the content type has no boundary")
        self._delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
        self._state = _State.PREAMBLE
        self._rest = b"\r\n"  # bytes not yet understood; the first boundary need not follow a line
        self._texts: dict[str, list[bytes]] = {}
        self._content: list[bytes] | None = None  # of the current part; None drops it
        self._room = 0  # bytes that the current part may have, if it is text
        self._file_count = self._text_count = 0

    def feed(self, data: bytes) -> None:
        """Parse more bytes.

        Raises:
            BadRequestError: malformed, or over 8 fields, or a field over 16,384 bytes.
            TooManyPartsError: more than `max_files` files.
            WrongPartError: `field` is text.
        """
        self._rest += data
        understood = True
        while understood:
            if self._state is _State.BOUNDARY:
                understood = self._read_boundary()
            elif self._state is _State.HEAD:
                understood = self._read_head()
            elif self._state is _State.EPILOGUE:
                self._rest, understood = b"", False
            else:
                understood = self._read_content()

    def finish(self) -> dict[str, str]:
        """The text fields, after the last byte.

        Raises:
            BadRequestError: the form is incomplete, or has no file in `field`.
        """
        if self._state is not _State.EPILOGUE:
            raise self._malformed("it ends before its last boundary")
        if not self.files:
            raise BadRequestError(f"the form has no field {self._field!r}, expected a file in it", field=self._field)
        return {name: b"".join(pieces).decode("utf-8", "replace") for name, pieces in self._texts.items()}

    def _read_content(self) -> bool:
        at = self._rest.find(self._delimiter)
        end = at if at >= 0 else max(0, len(self._rest) - len(self._delimiter) + 1)
        content, self._rest = self._rest[:end], self._rest[end:]
        if self._state is _State.PREAMBLE:
            if content.strip(b"\r\n"):
                raise self._malformed("it does not begin with its boundary")
        elif content:
            self._add(content)
        if at >= 0:
            self._rest = self._rest[len(self._delimiter) :]
            self._state = _State.BOUNDARY
        return at >= 0

    def _add(self, content: bytes) -> None:
        if self._content is None:
            return
        self._room -= len(content)
        if self._room < 0:
            raise self._malformed(f"a text field exceeds {_MAX_TEXT:,} bytes")
        self._content.append(content)

    def _read_boundary(self) -> bool:
        line, ended, rest = self._rest.partition(b"\r\n")
        if line.startswith(b"--"):
            self._state = _State.EPILOGUE
            return True
        if line.strip(b" \t" if ended else b" \t\r-") or len(line) > _MAX_HEAD:
            raise self._malformed("a boundary is followed by other text")
        if ended:
            self._rest, self._state = rest, _State.HEAD
        return bool(ended)

    def _read_head(self) -> bool:
        head, ended, rest = self._rest[:_MAX_HEAD].partition(b"\r\n\r\n")
        if ended:
            self._begin_part(head)
            self._rest, self._state = rest + self._rest[_MAX_HEAD:], _State.CONTENT
        elif len(self._rest) >= _MAX_HEAD:
            raise self._malformed(f"the headers of a part exceed {_MAX_HEAD:,} bytes")
        return bool(ended)

    def _begin_part(self, head: bytes) -> None:
        lines = [line.partition(b":") for line in head.split(b"\r\n")]
        if len(lines) > _MAX_HEADERS or not all(colon for _, colon, _ in lines):
            raise self._malformed(f"a part has malformed headers, or over {_MAX_HEADERS}")
        parameters = _read_parameters(
            {name.lower(): value for name, _, value in lines}.get(b"content-disposition", b"")
        )
        if b"name" not in parameters:
            raise self._malformed("a part has no Content-Disposition with a name")
        name = parameters[b"name"].decode("utf-8", "replace")
        if b"filename" in parameters or b"filename*" in parameters:
            self._begin_file(name)
        else:
            self._begin_text(name)

    def _begin_file(self, name: str) -> None:
        self._file_count += 1
        if self._file_count > self._max_files:
            raise TooManyPartsError(
                f"the form exceeds the limit of {self._max_files} files; send several requests", field=self._field
            )
        self._content, self._room = None, sys.maxsize
        if name == self._field:
            self._content = []
            self.files.append(self._content)

    def _begin_text(self, name: str) -> None:
        if name == self._field:
            raise WrongPartError(f"field {name!r} is text, expected a file; URLs are never fetched", field=name)
        self._text_count += 1
        if self._text_count > MAX_TEXTS:
            raise self._malformed(f"it has over {MAX_TEXTS} text fields")
        self._content, self._room = [], _MAX_TEXT
        self._texts[name] = self._content

    def _malformed(self, reason: str) -> BadRequestError:
        return BadRequestError(f"invalid multipart form: {reason}", field=self._field)


def _read_parameters(disposition: bytes) -> dict[bytes, bytes]:
    """The parameters of a Content-Disposition header; the first of each name counts."""
    kind, semicolon, _ = disposition.partition(b";")
    parameters: dict[bytes, bytes] = {}
    if kind.strip().lower() != b"form-data" or not semicolon:
        return parameters
    position = len(kind)
    while match := _PARAMETER.match(disposition, position):
        value = match[3] if match[2] is None else re.sub(rb'\\(["\\])', rb"\1", match[2])
        parameters.setdefault(match[1].lower(), value)
        position = match.end()
    return parameters
