"""One decoding process, as the process that started it sees it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from abnn_serve.media.isolation.budget import Budget
from abnn_serve.media.isolation.messages import KEPT_BYTES, Channel, Job, create_shared_file, write_all, write_job

Cause = Literal["time", "memory", "system_call", "crash", "killed", "protocol"]

_START_SECONDS = 180.0  # on a busy machine
_CANCEL_SECONDS = 1.0  # between a cancellation and the end of a process that goes on
_POLL_SECONDS = 0.05
_OUT_OF_MEMORY = 71  # worker.py's exit status
_SIGNALS: dict[int, Cause] = {
    signal.SIGXCPU: "time",
    signal.SIGSYS: "system_call",
    signal.SIGKILL: "killed",  # by others: the process was killed for time if it is we who did it
}
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",  # arenas take address space, which the limit on memory counts
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONHOME")


class ProcessDiedError(Exception):
    """The decoding process ended during a task. `cause` says why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause: Cause = cause


class DecodingProcess:
    """Starts a decoding process without waiting for it.

    Attributes:
        memory: descriptor of the shared memory, which holds the pixels after `run`.
        mechanisms: what isolates it, see `Sandbox`; known after `wait_until_ready`.
    """

    def __init__(self) -> None:
        self.memory = create_shared_file()
        self.mechanisms: tuple[str, ...] = ()
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno()), str(self.memory)],
                env=_environment(),
                cwd="/",
                pass_fds=(theirs.fileno(), self.memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # C libraries print there what the error already says
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_until_ready(self) -> bool:
        """Wait until the process is confined and can decode; False if it ended, or is not ready after three minutes."""
        try:
            message = self._receive(time.monotonic() + _START_SECONDS, lambda: False)
        except ProcessDiedError:
            return False
        self.mechanisms = tuple(map(str, message.get("mechanisms", ())))
        return True

    def run(self, data: bytes, job: Job, budget: Budget, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Decode a file; returns the process's reply and leaves the pixels in the shared memory.

        Raises:
            ProcessDiedError: the process ended, or was killed because its time is over; it cannot be used again.
        """
        task = {"job": write_job(job), "size": len(data), "memory": budget.memory_bytes, "cpu": budget.cpu_seconds}
        deadline = time.monotonic() + budget.seconds
        write_all(self.memory, data)
        with suppress(OSError):  # if it has gone, receiving says why
            self._channel.send(task)
        return self._receive(deadline, is_cancelled)

    def free_memory(self) -> None:
        """Free what the shared memory takes beyond KEPT_BYTES."""
        if os.fstat(self.memory).st_size > KEPT_BYTES:
            os.ftruncate(self.memory, KEPT_BYTES)

    def kill(self) -> None:
        """Kill the process; a task that is running ends with ProcessDiedError."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and release what belongs to it; no other thread may use it any more."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
        os.close(self.memory)

    def _receive(self, deadline: float, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        cancelled = False
        while not poll.poll(1000 * min(_POLL_SECONDS, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                self._process.kill()
                self._process.wait()
                raise ProcessDiedError("time")
            if not cancelled and is_cancelled():
                cancelled, deadline = True, min(deadline, time.monotonic() + _CANCEL_SECONDS)
                with suppress(OSError):
                    self._channel.cancel()
        with suppress(OSError):
            if (message := self._channel.receive()) is not None:
                return message
        raise ProcessDiedError(self._cause_of_death())

    def _cause_of_death(self) -> Cause:
        try:
            status = self._process.wait(timeout=_CANCEL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "protocol"
        if status == _OUT_OF_MEMORY:
            return "memory"
        return _SIGNALS.get(-status, "crash" if status else "protocol")


def _environment() -> dict[str, str]:
    """Nothing of this process's environment, which may hold secrets, but what Python needs to find its modules."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path)}
