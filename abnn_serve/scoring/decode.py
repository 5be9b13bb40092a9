"""Rows to pixels, in other processes: Python decodes small pictures under its lock, which threads would wait for."""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import InputError, ScoringError, one_line
from abnn_serve.media.image import ImageLimits, load_image, quiet_pillow
from abnn_serve.media.limits import VideoLimits
from abnn_serve.media.video import decode_video
from abnn_serve.scoring.plan import Row
from abnn_serve.scoring.sources.filesystem import locate
from abnn_serve.spec import InputSpec

_READS_AT_ONCE = 16  # of one process: a remote file takes tens of milliseconds to begin
_AHEAD = 4  # chunks for each process that wait for the predictor

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What came of some rows: a problem for each, empty where there is none, and the pixels of those without.

    Attributes:
        pixels: uint8 (samples of the good rows, *spec.shape): a picture is one, a video as many as it has clips.
        counts: how many samples each good row has.
        digests: sha256 of each row's content, in hexadecimal; empty where it could not be read.
    """

    pixels: NDArray[np.uint8]
    counts: tuple[int, ...]
    problems: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Brings the content of rows to a model's input, as `Predictor.decode` and `decode_video` do."""

    spec: InputSpec
    limits: ImageLimits
    video_limits: VideoLimits

    def __call__(self, rows: Sequence[Row]) -> Decoded:
        """Read and decode; what is wrong with a row's content is its problem and no error."""
        samples, problems, digests = [], [], []
        for content, problem in self._read(rows):
            if not problem:
                try:
                    samples.append(self._pixels(content))
                except InputError as error:
                    problem = str(error)  # noqa: PLW2901 - what is wrong now
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
            return decode_video(content, self.spec, self.video_limits).pixels
        return load_image(content, self.spec, self.limits)[None]

    def _read(self, rows: Sequence[Row]) -> list[tuple[bytes, str]]:
        if any(isinstance(row.content, str) for row in rows):
            with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
                return list(pool.map(self._content, rows))
        return [self._content(row) for row in rows]

    def _content(self, row: Row) -> tuple[bytes, str]:
        """The bytes of a row, and what is wrong where there are none."""
        if row.problem or isinstance(row.content, bytes):
            return (row.content if isinstance(row.content, bytes) else b""), row.problem
        try:
            system, path = locate(row.content)
            limits = self.video_limits if self.spec.sampling else self.limits
            return system.cat_file(path, end=limits.max_bytes + 1), ""
        except Exception as error:  # each file system raises its own
            return b"", f"cannot be read: {getattr(error, 'strerror', None) or one_line(error)}"


class DecodePool:
    """A decoder in `workers` processes; in this one where there are none.

    Use it as a context. Its processes end with this one, even if that is killed.
    """

    def __init__(self, decoder: Decoder, workers: int) -> None:
        self._decoder, self._workers = decoder, workers
        self._processes: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers:
            self._processes = ProcessPoolExecutor(self._workers, mp.get_context("spawn"), _start, (self._decoder,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._processes:
            self._processes.shutdown(cancel_futures=True)

    def map(self, chunks: Iterable[tuple[Key, list[Row]]]) -> Iterator[tuple[Key, list[Row], Decoded]]:
        """Chunks, each with a key, in their order; some are decoded ahead of the one that is asked for."""
        if self._processes is None:
            for key, rows in chunks:
                yield key, rows, self._decoder(rows)
            return
        ahead: deque[tuple[Key, list[Row], Future[Decoded]]] = deque()
        for key, rows in chunks:
            ahead.append((key, rows, self._processes.submit(_decode, rows)))
            if len(ahead) > _AHEAD * self._workers:
                yield _taken(*ahead.popleft())
        while ahead:
            yield _taken(*ahead.popleft())


def _taken(key: Key, rows: list[Row], future: Future[Decoded]) -> tuple[Key, list[Row], Decoded]:
    try:
        return key, rows, future.result()
    except BrokenProcessPool as error:
        raise ScoringError(
            "a decoding process died, perhaps for want of memory; give fewer --workers, and run again to go on"
        ) from error


_decoder: Decoder | None = None


def _start(decoder: Decoder) -> None:
    global _decoder  # noqa: PLW0603 - a process has one
    _decoder = decoder
    quiet_pillow()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries print there what the row's error says
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _decode(rows: list[Row]) -> Decoded:
    assert _decoder is not None  # noqa: S101
    return _decoder(rows)
