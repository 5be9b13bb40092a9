"""Where an address lies: on this machine, whatever characters its name has, or behind an fsspec URL."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem, make_path_posix


def locate(address: str) -> tuple[Any, str]:
    """The file system and the path in it; raises whatever fsspec does."""
    if "://" in address:
        system, path = fsspec.core.url_to_fs(address)
        return system, path
    return LocalFileSystem(), make_path_posix(address)  # fsspec would take `::` in a name for a chain of systems


def open_at(address: str) -> Any:
    """The file at an address, to read its bytes; a context."""
    system, path = locate(address)
    return system.open(path, "rb")
