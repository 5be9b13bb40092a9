"""What a decoding process and its parent send each other: JSON over a socket, files and pixels in shared memory.

Nothing that a decoding process sends is unpickled or trusted: a hostile file may have taken it over.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.codec import from_json, to_json
from abnn_serve.errors import AbnnError
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.spec import InputSpec

KEPT_BYTES = 4_194_304  # of shared memory between tasks: new pages cost more than what is written to them
_MAX_LINE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What files are decoded to, and under which limits; with `spec.sampling` they are videos, else images."""

    spec: InputSpec
    limits: ImageLimits
    video_limits: VideoLimits


@lru_cache(maxsize=64)
def write_job(job: Job) -> str:
    """A job as JSON."""
    return json.dumps(to_json(job))


@lru_cache(maxsize=64)
def read_job(text: str) -> Job:
    """The job that `write_job` wrote."""
    return from_json(Job, json.loads(text), "job", AbnnError)


class Channel:
    """Messages over a connected socket; empty lines cancel the task at hand."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""

    def fileno(self) -> int:
        """The socket's descriptor, readable when a message or the end has arrived."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            OSError: the other side has gone.
        """
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def cancel(self) -> None:
        """Tell the other side to cancel the task at hand.

        Raises:
            OSError: the other side has gone.
        """
        self._socket.sendall(b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Wait for a message; None if the other side has gone, or sends something else.

        Raises:
            OSError: the connection is broken.
        """
        while True:
            line, end, rest = self._received.partition(b"\n")
            if not end:
                more = self._socket.recv(_MAX_LINE) if len(line) <= _MAX_LINE else b""
                if not more:
                    return None
                self._received += more
                continue
            self._received = rest
            if line:
                return _message(line)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def create_shared_file() -> int:
    """Open a file in memory that two processes can share; returns its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("abnn-decoding")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_all(descriptor: int, data: bytes | memoryview, offset: int = 0) -> int:
    """Write data at an offset; returns the offset behind them."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return offset


def write_array(descriptor: int, array: NDArray[Any], offset: int) -> int:
    """Write an array at an offset; returns the offset behind it."""
    return write_all(descriptor, np.ascontiguousarray(array).reshape(-1).data, offset) if array.size else offset


def read_array(descriptor: int, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> NDArray[Any] | None:
    """Read an array at an offset; None if the file is too short."""
    array = np.empty(shape, dtype)
    view = array.reshape(-1).data.cast("B")
    while view:
        if (count := os.preadv(descriptor, [view], offset)) <= 0:
            return None
        view, offset = view[count:], offset + count
    return array
