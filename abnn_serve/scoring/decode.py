"""Decodes rows to pixels in worker processes: in threads, decoding small images would contend for Python's lock.

Each worker passes videos, and images that are large or unusual, on to an isolated process: the worker itself has files,
network and credentials, so it decodes only what a header proves to be cheap.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing as mp
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputError, ScoringError, one_line
from abnn_serve.media.headers.header import Header
from abnn_serve.media.image import load_if_plain, quiet_pillow
from abnn_serve.media.isolation.budget import SMALL_PIXELS
from abnn_serve.media.isolation.pool import DecoderPool
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.scoring.plan import Row
from abnn_serve.scoring.sources.filesystem import read_start
from abnn_serve.spec import InputSpec

_CONCURRENT_READS = 16  # per process; a remote file takes tens of milliseconds to open
_CHUNKS_AHEAD = 4  # decoded chunks per process that wait for the predictor

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The decoded samples of some rows. Rows with a problem have no samples.

    Attributes:
        pixels: uint8 (samples, *spec.shape), in row order: one sample per image, one per clip of a video.
        counts: number of samples of each row without a problem.
        problems: for each row, why it could not be decoded; empty if it was.
        digests: for each row, the sha256 of its content in hexadecimal; empty if it could not be read.
    """

    pixels: NDArray[np.uint8]
    counts: tuple[int, ...]
    problems: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Reads and decodes rows, exactly as `Predictor.decode` and `Predictor.decode_video` do."""

    spec: InputSpec
    limits: ImageLimits
    video_limits: VideoLimits

    def __call__(self, rows: Sequence[Row]) -> Decoded:
        """Read and decode rows; reports unreadable content as a problem of its row instead of raising."""
        samples, problems, digests = [], [], []
        for content, problem in self._read(rows):
            if not problem:
                try:
                    samples.append(self._pixels(content))
                except InputError as error:
                    problem = str(error)  # noqa: PLW2901
            problems.append(problem)
            digests.append(hashlib.sha256(content).hexdigest() if content else "")
        return Decoded(
            pixels=np.concatenate(samples) if samples else np.empty((0, *self.spec.shape), np.uint8),
            counts=tuple(map(len, samples)),
            problems=tuple(problems),
            digests=tuple(digests),
        )

    def _pixels(self, content: bytes) -> NDArray[np.uint8]:
        if self.spec.sampling:
            return isolated_decoder().video(content, self.spec, self.video_limits).pixels
        image = load_if_plain(content, self.spec, self.limits, SMALL_PIXELS)
        if isinstance(image, Header):
            image = isolated_decoder().image(content, self.spec, self.limits, image)
        return image[None]

    def _read(self, rows: Sequence[Row]) -> Iterator[tuple[bytes, str]]:
        """Yield the content and problem of each row; reads a few files ahead, so that only those are in memory."""
        if not any(isinstance(row.content, str) for row in rows):
            yield from map(self._content, rows)
            return
        with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
            ahead: deque[Future[tuple[bytes, str]]] = deque()
            for row in rows:
                ahead.append(pool.submit(self._content, row))
                if len(ahead) == _CONCURRENT_READS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _content(self, row: Row) -> tuple[bytes, str]:
        """The bytes of a row, and the problem if they could not be read."""
        if row.problem or isinstance(row.content, bytes):
            return (row.content if isinstance(row.content, bytes) else b""), row.problem
        try:
            limits = self.video_limits if self.spec.sampling else self.limits
            return read_start(row.content, limits.max_bytes + 1, row.within), ""
        except Exception as error:  # every file system has its own exceptions
            return b"", f"cannot be read: {getattr(error, 'strerror', None) or one_line(error)}"


@cache
def isolated_decoder() -> DecoderPool:
    """The isolated process of this process, started when it is first needed."""
    pool = DecoderPool(1)
    atexit.register(pool.close)
    return pool


class DecodePool:
    """Runs a decoder in `workers` processes, or in this one if `workers` is 0.

    Use it as a context manager. The processes exit with this one, even if it is killed.
    """

    def __init__(self, decoder: Decoder, workers: int) -> None:
        self._decoder, self._workers = decoder, workers
        self._processes: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers:
            self._processes = ProcessPoolExecutor(
                self._workers, mp.get_context("spawn"), _start_worker, (self._decoder,)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._processes:
            self._processes.shutdown(cancel_futures=True)

    def map(self, chunks: Iterable[tuple[Key, list[Row]]]) -> Iterator[tuple[Key, list[Row], Decoded]]:
        """Decode chunks, each with a key, in order; decodes a few chunks ahead of the caller."""
        if self._processes is None:
            for key, rows in chunks:
                yield key, rows, self._decoder(rows)
            return
        ahead: deque[tuple[Key, list[Row], Future[Decoded]]] = deque()
        for key, rows in chunks:
            ahead.append((key, rows, self._processes.submit(_decode, rows)))
            if len(ahead) > _CHUNKS_AHEAD * self._workers:
                yield _result(*ahead.popleft())
        while ahead:
            yield _result(*ahead.popleft())


def _result(key: Key, rows: list[Row], future: Future[Decoded]) -> tuple[Key, list[Row], Decoded]:
    try:
        return key, rows, future.result()
    except BrokenProcessPool as error:
        raise ScoringError(
            "a decoding process died, perhaps because memory ran out; run again with fewer --workers to continue"
        ) from error


_decoder: Decoder | None = None


def _start_worker(decoder: Decoder) -> None:
    global _decoder  # noqa: PLW0603 - set once per worker process
    _decoder = decoder
    quiet_pillow()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries print there what the row's problem already says
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _decode(rows: list[Row]) -> Decoded:
    assert _decoder is not None  # noqa: S101
    return _decoder(rows)
