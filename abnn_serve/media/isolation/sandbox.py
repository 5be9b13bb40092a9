"""Confines the process that calls it to computing: no files, no network, no programs; and bounds each task."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

from abnn_serve.media.isolation.landlock import give_up_files
from abnn_serve.media.isolation.seccomp import filter_system_calls, forbid_new_privileges


class Sandbox:
    """The limits of this process.

    Args:
        descriptors: file descriptors that stay: those below this number, all of which must be open.

    Attributes:
        mechanisms: what is in force, of `rlimits`, `landlock` and `seccomp`.
    """

    def __init__(self, descriptors: int) -> None:
        self._idle_bytes = _address_space()
        mechanisms = ["rlimits"]
        if forbid_new_privileges() and give_up_files():
            mechanisms.append("landlock")
        # No new descriptor is free, so that even without Landlock and seccomp nothing can be opened.
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if filter_system_calls():
            mechanisms.append("seccomp")
        self.mechanisms = tuple(mechanisms)

    def limit_task(self, memory_bytes: int, cpu_seconds: float) -> None:
        """Let the next task take this much memory and processor time; beyond that, allocations fail or a signal kills.

        Limits on memory need Linux.
        """
        if self._idle_bytes:
            _lower(resource.RLIMIT_AS, self._idle_bytes + memory_bytes)
        _lower(resource.RLIMIT_CPU, int(time.process_time() + cpu_seconds) + 1)  # the kernel counts whole seconds


def _address_space() -> int:
    """The size of this process's address space in bytes; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
