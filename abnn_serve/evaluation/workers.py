"""Processes that share the work of an evaluation or a certification: each opens the model once and runs parts on it."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

import torch

from abnn_serve.errors import ConfigError
from abnn_serve.lab.device import exact_fp32

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
T = TypeVar("T")


class Workers(Protocol[M_co]):
    """Whatever runs parts of the work on a model, such as a `Subject`."""

    def run(self, parts: Sequence[Callable[[M_co], T]]) -> Iterator[tuple[int, T]]:
        """The number of each part and its result, in the order in which they finish."""
        ...


class ThisProcess(Generic[M]):
    """Runs parts one after the other, in their order."""

    def __init__(self, model: M) -> None:
        self._model = model

    def run(self, parts: Sequence[Callable[[M], T]]) -> Iterator[tuple[int, T]]:
        """See `Workers`."""
        for number, part in enumerate(parts):
            yield number, part(self._model)


class Processes(Generic[M]):
    """Runs parts in processes of one thread, each of which opens the model when it starts.

    They end when this process ends, however it does.
    """

    def __init__(self, reopen: Callable[[], M], jobs: int) -> None:
        context = mp.get_context("spawn")
        self._alive, self._guard = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(jobs, context, _start, (reopen, self._alive))

    def run(self, parts: Sequence[Callable[[M], T]]) -> Iterator[tuple[int, T]]:
        """See `Workers`; ConfigError if a process dies."""
        futures: dict[Future[Any], int] = {self._pool.submit(_call, part): n for n, part in enumerate(parts)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise ConfigError(
                "a process of --jobs died, perhaps for lack of memory; run the command again to resume, with fewer jobs"
            ) from None

    def close(self, *, wait: bool) -> None:
        """End the processes: now, or when what they run is finished."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
        self._guard.close()
        self._alive.close()


def check_jobs(jobs: int | None) -> None:
    """ConfigError unless `jobs` is a number of processes, or None for this process with all its threads."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is {jobs}, expected at least 1")


@contextlib.contextmanager
def share_work(model: M, reopen: Callable[[], M], jobs: int | None) -> Iterator[Workers[M]]:
    """Workers for an evaluation or a certification.

    Args:
        model: as this process opened it.
        reopen: opens it again in another process; must be picklable.
        jobs: number of processes, each with one thread of torch: results do not depend on it. None runs everything in
            this process with all of torch's threads, which may round differently.
    """
    if jobs is None:
        yield ThisProcess(model)
        return
    with _one_thread():
        if jobs == 1:
            yield ThisProcess(model)
            return
        processes = Processes(reopen, jobs)
        finished = False
        try:
            yield processes
            finished = True
        finally:
            processes.close(wait=finished)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_model: Any = None


def _start(reopen: Callable[[], Any], alive: Connection) -> None:
    global _model  # noqa: PLW0603 - set once per process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process handles Ctrl-C
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    torch.set_num_threads(1)
    _model = reopen()


def _end_with(alive: Connection) -> None:
    """End this process when the first one closes its end of the pipe or dies."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)


def _call(part: Callable[[Any], T]) -> T:
    with exact_fp32():
        return part(_model)
