"""Resolves addresses, which are local paths or fsspec URLs, to file systems."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem, make_path_posix


def locate(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it; raises the exceptions of fsspec."""
    if "://" in address:
        system, path = fsspec.core.url_to_fs(address)
        return system, path
    return LocalFileSystem(), make_path_posix(address)  # fsspec would read `::` in a name as a chain of file systems


def open_at(address: str) -> Any:
    """Open the file at an address for reading bytes; a context manager."""
    system, path = locate(address)
    return system.open(path, "rb")
