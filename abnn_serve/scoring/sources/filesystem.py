"""Resolves addresses, which are local paths or fsspec URLs, to file systems."""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem, make_path_posix

from abnn_serve.errors import DataError

_PIECE = 1 << 20


def locate(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it; raises the exceptions of fsspec."""
    if "://" in address:
        system, path = fsspec.core.url_to_fs(address)
        return system, path
    return LocalFileSystem(), make_path_posix(address)  # fsspec would read `::` in a name as a chain of file systems


def open_at(address: str) -> Any:
    """Open the file at an address for reading bytes; a context manager."""
    system, path = locate(address)
    return _open_local(path) if isinstance(system, LocalFileSystem) else system.open(path, "rb")


def read_start(address: str, count: int, within: str = "") -> bytes:
    """Read the first `count` bytes of a file, and no more from the network.

    Args:
        address: of the file.
        count: largest number of bytes.
        within: folder outside which nothing is read, also through symbolic links; empty allows every address.

    Raises:
        DataError: the file is outside `within`; also the exceptions of the file system.
    """
    if within and not is_beneath(address, within):
        raise DataError(f"the list names {outside(address, within)}")
    system, path = locate(address)
    if isinstance(system, LocalFileSystem):
        real = os.path.realpath(path)
        if within and not is_beneath(make_path_posix(real), make_path_posix(os.path.realpath(within))):
            raise DataError(f"the list names {outside(real, within)}")
        with _open_local(real) as file:
            return file.read(count)
    if "http" in system.protocol:
        return _stream(system, path, count)
    content: bytes = system.cat_file(path, end=count)
    return content


def is_beneath(address: str, folder: str) -> bool:
    """Whether an address, as it is written, is inside a folder of the same file system."""
    if "://" not in address + folder:
        return _normal(address).startswith(_normal(folder).rstrip("/") + "/")
    scheme, separator, path = address.partition("://")
    its_scheme, its_separator, its_path = folder.partition("://")
    if (scheme, separator) != (its_scheme, its_separator) or "::" in address:
        return False
    return _normal(unquote(path)).startswith(_normal(unquote(its_path)).rstrip("/") + "/")


def outside(address: str, folder: str) -> str:
    """The end of the message for an address that a list must not name."""
    return f"{address}, which is outside the list's folder {folder}; if you trust the list, add --allow-remote"


def _normal(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/")) if os.name == "nt" else posixpath.normpath(path)


def _open_local(path: str) -> BinaryIO:
    if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a FIFO waits, and reading a device need not end
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)), "rb")


def _stream(system: Any, path: str, count: int) -> bytes:
    """Read from an HTTP server; one that ignores the header Range would send all of the file."""
    pieces, left = [], count
    with system.open(path, "rb", block_size=0, size=1) as file:  # with a size, no HEAD request is made
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)
