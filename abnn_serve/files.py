"""Files on disk: written whole or not at all, and synced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"  # suffix of a file that is being written


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file that replaces `path` when the block ends; an exception leaves `path` as it was.

    After a kill at any time, `path` holds either its old content or all of its new content.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory to disk, so that a rename in it survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
