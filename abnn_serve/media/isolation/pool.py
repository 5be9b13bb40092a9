"""A pool of decoding processes, started before they are needed and replaced when they die."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from abnn_serve.errors import DecoderError
from abnn_serve.media.headers.header import Header
from abnn_serve.media.image import check_header
from abnn_serve.media.isolation.budget import Budget, image_budget, video_budget
from abnn_serve.media.isolation.messages import Job
from abnn_serve.media.isolation.process import Cause, DecodingProcess, ProcessDiedError
from abnn_serve.media.isolation.replies import death_error, read_image, read_video
from abnn_serve.media.limits import ImageLimits, VideoLimits
from abnn_serve.media.video import VideoClips
from abnn_serve.spec import InputSpec

T = TypeVar("T")

PROCESSES = 2
_MAX_WAIT_SECONDS = 60.0
_RESTART_SECONDS = 1.0  # between attempts to start a process


class DecoderPool:
    """Decodes images and videos in processes without files, network or secrets, each task under its own budget.

    Large files never take the last free process of several, so that small ones do not wait for them.

    Args:
        processes: number of processes.
        on_death: called with the cause, see `ProcessDiedError`, whenever a process died; from any thread.

    Attributes:
        mechanisms: what isolates the processes, see `Sandbox`; empty before `start`.
    """

    def __init__(self, processes: int = PROCESSES, on_death: Callable[[str], None] | None = None) -> None:
        self._count, self._on_death = processes, on_death or (lambda _: None)
        self._changed = threading.Condition(threading.RLock())
        self._idle: list[DecodingProcess] = []
        self._alive: set[DecodingProcess] = set()
        self._large_running = 0
        self._is_started = self._is_closed = False
        self.mechanisms: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes and wait until they are ready; else the first task does.

        Raises:
            DecoderError: a process does not start.
        """
        with self._changed:
            if self._is_started:
                return
            self._is_started = True
            with ThreadPoolExecutor(self._count) as threads:
                started = list(threads.map(lambda _: _start(), range(self._count)))
            processes = [process for process in started if process]
            if len(processes) < self._count:
                for process in processes:
                    process.close()
                self._is_started = False
                raise DecoderError("decoding processes do not start; check the limits on memory and processes")
            self._alive.update(processes)
            self._idle += processes
            self.mechanisms = processes[0].mechanisms

    @property
    def is_ready(self) -> bool:
        """Whether any process is running. Processes that were killed while idle are replaced."""
        return bool(self.pids)

    @property
    def pids(self) -> list[int]:
        """Process ids of the running processes."""
        with self._changed:
            self._bury_idle()
            return sorted(process.pid for process in self._alive)

    @property
    def busy_pids(self) -> list[int]:
        """Process ids of the processes that are decoding."""
        with self._changed:
            return sorted(process.pid for process in self._alive - set(self._idle))

    def image(
        self, data: bytes, spec: InputSpec, limits: ImageLimits, header: Header | None = None
    ) -> NDArray[np.uint8]:
        """Decode an image to uint8 (spec.height, spec.width, 3).

        Args:
            data: the encoded file.
            spec: the model's input.
            limits: limits for the file.
            header: what `check_header` returned for the file; None calls it.

        Raises:
            TooCostlyError: decoding takes more time or memory than the declared size justifies.
            InputError: as `media.image.load_image`.
            DecoderError: no process is free within a minute.
        """
        budget = image_budget(header or check_header(data, limits), len(data), spec, limits)
        job = Job(spec=spec, limits=limits, video_limits=VideoLimits())

        def decode(process: DecodingProcess) -> NDArray[np.uint8]:
            return read_image(process.run(data, job, budget, lambda: False), process.memory, spec)

        return self._run(decode, budget, "image")

    def video(
        self, data: bytes, spec: InputSpec, limits: VideoLimits, *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> VideoClips:
        """Decode the clips of a video.

        Raises:
            TooCostlyError: decoding takes more memory than the limits justify, or too long inside one packet.
            InputError: as `media.video.decode_video`.
            DecoderError: as `image`.
        """
        limits.check_bytes(len(data))
        budget = video_budget(len(data), spec, limits)
        job = Job(spec=spec, limits=ImageLimits(), video_limits=limits)

        def decode(process: DecodingProcess) -> VideoClips:
            return read_video(process.run(data, job, budget, is_cancelled), process.memory, spec)

        return self._run(decode, budget, "video")

    def close(self) -> None:
        """Kill all processes; tasks that are running fail."""
        with self._changed:
            self._is_closed = True
            for process in self._alive - set(self._idle):
                process.kill()  # closed by the thread that runs its task
            for process in self._idle:
                process.close()
            self._alive, self._idle = set(), []
            self._changed.notify_all()

    def _run(self, task: Callable[[DecodingProcess], T], budget: Budget, what: str) -> T:
        """Run one task in a process; if the process dies, replace it in the background.

        A process that somebody else killed may have been idle until then, so the task is tried once more.
        """
        self.start()
        is_retry = False
        while True:
            process = self._take(is_large=budget.is_large)
            try:
                return task(process)
            except ProcessDiedError as death:
                self._bury(process, death.cause)
                if is_retry or death.cause != "killed":
                    raise death_error(death.cause, what, budget) from None
                is_retry = True
            finally:
                self._give_back(process, is_large=budget.is_large)

    def _take(self, *, is_large: bool) -> DecodingProcess:
        deadline = time.monotonic() + _MAX_WAIT_SECONDS
        with self._changed:
            while True:
                self._bury_idle()
                if self._is_closed:
                    raise DecoderError("the decoding processes have been stopped")
                if self._idle and not (is_large and self._large_running >= max(1, self._count - 1)):
                    self._large_running += is_large
                    return self._idle.pop()
                if not self._changed.wait(max(deadline - time.monotonic(), 0)) and time.monotonic() >= deadline:
                    raise DecoderError(f"no decoding process was free for {_MAX_WAIT_SECONDS:g} s; retry later")

    def _give_back(self, process: DecodingProcess, *, is_large: bool) -> None:
        process.free_memory()
        with self._changed:
            self._large_running -= is_large
            if process in self._alive:
                self._idle.append(process)
            else:
                process.close()
            self._changed.notify_all()

    def _bury_idle(self) -> None:
        """Replace processes that somebody killed while they were idle. The caller holds the lock."""
        for process in [process for process in self._idle if not process.is_alive]:
            self._idle.remove(process)
            self._bury(process, "killed")
            process.close()

    def _bury(self, process: DecodingProcess, cause: Cause) -> None:
        with self._changed:
            self._alive.discard(process)
            is_closed = self._is_closed
        if not is_closed:
            self._on_death(cause)
            threading.Thread(target=self._replace, name="start-decoder", daemon=True).start()

    def _replace(self) -> None:
        """Start another process, again and again until it is ready."""
        while not self._is_closed:
            process = _start()
            with self._changed:
                if process and not self._is_closed:
                    self._alive.add(process)
                    self._idle.append(process)
                    self._changed.notify_all()
                    return
            if process:
                process.close()
            self._on_death("start")
            time.sleep(_RESTART_SECONDS)


def _start() -> DecodingProcess | None:
    """Start a process and wait until it can decode; None if it cannot."""
    try:
        process = DecodingProcess()
    except OSError:  # no memory, processes or file descriptors are left
        return None
    if process.wait_until_ready():
        return process
    process.close()
    return None
