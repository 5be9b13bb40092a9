"""A seccomp filter for decoding: memory, time, and the file descriptors that are open already; nothing else."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF instructions on 32-bit words
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # system calls of the x32 ABI, which share x86-64's architecture code
_PROT_EXEC = 4

# System call: its numbers on x86-64 and on 64-bit ARM; None where the architecture has no such call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "poll": (7, None),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "exit": (60, 93),
    "ftruncate": (77, 46),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
_WITHOUT_EXECUTION = {"mmap": (9, 222), "mprotect": (10, 226)}  # allowed unless the memory becomes executable
_OF_ONESELF = {"prlimit64": (302, 261)}  # allowed on the calling process, which is process 0
_BY_PID = {"tgkill": (234, 131)}  # abort() signals its own process
_FATAL: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "execveat": (322, 281),
}


@dataclass(frozen=True, slots=True)
class _Architecture:
    code: int  # AUDIT_ARCH_*
    column: int  # of the tables above


_ARCHITECTURES = {"x86_64": _Architecture(0xC000003E, 0), "aarch64": _Architecture(0xC00000B7, 1)}


def forbid_new_privileges() -> bool:
    """Set no_new_privs, which unprivileged processes need for seccomp and Landlock; returns whether it is set."""
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def filter_system_calls() -> bool:
    """Filter this thread's system calls from now on; returns False where the kernel or the machine has no seccomp.

    Calls that decoding does not need fail with EPERM; those that start a program or open a socket kill the process.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None or not forbid_new_privileges():
        return False
    code = _program(architecture)
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(instructions))
    prctl = ctypes.CDLL(None).prctl
    return bool(prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(program, len(program)), 0, 0) == 0)


def _program(architecture: _Architecture) -> bytes:
    column = architecture.column
    program = [
        _load(_ARCHITECTURE),
        _jump(_EQUAL, architecture.code, if_true=1, if_false=0),
        _return(_KILL),
        _load(_NUMBER),
        _jump(_AT_LEAST, _X32, if_true=0, if_false=1),
        _return(_KILL),
    ]
    for names, verdict in ((_ALLOWED, _ALLOW), (_FATAL, _KILL)):
        for numbers in names.values():
            if (number := numbers[column]) is not None:
                program += [_jump(_EQUAL, number, if_true=0, if_false=1), _return(verdict)]
    for numbers in _WITHOUT_EXECUTION.values():
        test = [_load(_ARGUMENTS + 8 * 2), _jump(_ANY_BIT, _PROT_EXEC, if_true=1, if_false=0)]
        program += _if_number(numbers[column], [*test, _return(_ALLOW), _return(_FAIL)])
    for table, value in ((_OF_ONESELF, 0), (_BY_PID, os.getpid())):
        for numbers in table.values():
            test = [_load(_ARGUMENTS), _jump(_EQUAL, value, if_true=0, if_false=1)]
            program += _if_number(numbers[column], [*test, _return(_ALLOW), _return(_FAIL)])
    return b"".join([*program, _return(_FAIL)])


def _if_number(number: int, body: list[bytes]) -> list[bytes]:
    """Run `body`, which must return, for one system call."""
    return [_jump(_EQUAL, number, if_true=0, if_false=len(body)), *body]


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", _LOAD, 0, 0, offset)


def _jump(test: int, value: int, *, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", test, if_true, if_false, value)


def _return(verdict: int) -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, verdict)
