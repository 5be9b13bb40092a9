"""Limits what reading a Parquet file takes: the header of each page is checked before Arrow unpacks the page.

Arrow allocates what a page's header declares. A few hundred bytes can declare, and unpack to, gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from abnn_serve.scoring.sources.thrift import read_struct

_FREE_BYTES = 128_000_000  # that a column of a row group may always unpack to
_RATIO = 8  # and for each of its packed bytes; encoded images hardly shrink when packed
_MAX_HEADER = 1 << 20
_PEEK = 1 << 12
_DELTA_BYTE_ARRAY = 7  # shares prefixes between values
# fields of Thrift's PageHeader, and of its data page headers in versions 1 and 2
_UNPACKED, _PACKED, _DATA_PAGE, _DATA_PAGE_2 = 2, 3, 5, 8
_VALUES, _ENCODING, _ENCODING_2 = 1, 2, 4


class CheckedFile:
    """A file for a `pyarrow.parquet.ParquetFile` that reads one column without nested values, from start to end.

    After `watch`, reads fail before a page that unpacks to too much. The pages are found by their headers alone:
    pyarrow's metadata of a damaged column can end the process.
    """

    closed = False
    mode = "rb"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_watching = False
        self._next: int | None = None  # where the next read of the column begins
        self._page = self._packed = self._unpacked = 0  # next page header; bytes of the pages before it

    def watch(self) -> None:
        """Check all reads from now on, of which the first begins at the column's first page in a row group."""
        self._is_watching, self._next = True, None
        self._packed = self._unpacked = 0

    def read(self, count: int = -1) -> bytes:
        """Read bytes; raises OSError for a page over the limit."""
        start = self._file.tell()
        data = self._file.read(count)
        if self._is_watching and data:
            end = start + len(data)
            if self._next is None:
                self._page = start
            elif self._next != start:
                raise OSError(f"a read at byte {start:,} of the column, expected {self._next:,}")
            while self._page < end:
                self._check_page(start, data)
            self._file.seek(end)
            self._next = end
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to another position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def writable(self) -> bool:
        """Always false."""
        return False

    def close(self) -> None:
        """Leave the file to who opened it."""

    def flush(self) -> None:
        """Do nothing: the file is only read."""

    def _check_page(self, start: int, data: bytes) -> None:
        for window in self._windows(self._page, start, data):
            try:
                header, size = read_struct(window, 0)
                break
            except IndexError:
                continue
        else:
            raise OSError(f"a page header of over {_MAX_HEADER:,} bytes")
        packed, unpacked = (_number(header.get(field)) for field in (_PACKED, _UNPACKED))
        details = header.get(_DATA_PAGE) or header.get(_DATA_PAGE_2) or {}
        encoding = details.get(_ENCODING if _DATA_PAGE in header else _ENCODING_2)
        self._page += size + packed
        self._packed += packed
        self._unpacked += unpacked * (_number(details.get(_VALUES)) if encoding == _DELTA_BYTE_ARRAY else 1)
        limit = _FREE_BYTES + _RATIO * self._packed
        if self._unpacked > limit:
            sizes = f"pages of {self._packed:,} bytes unpack to up to {self._unpacked:,}, the limit is {limit:,}"
            raise OSError(f"{sizes}; write the file with PLAIN encoding and without compression")

    def _windows(self, at: int, start: int, data: bytes) -> Iterator[bytes]:
        """Yield more and more bytes that begin at a page header."""
        if at >= start:
            yield data[at - start : at - start + _PEEK]
        for size in (_PEEK, _MAX_HEADER):
            self._file.seek(at)
            yield self._file.read(size)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise OSError(f"a page header has {value!r}, expected a size of at least 0")
    return value
