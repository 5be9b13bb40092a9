"""What a confined process can still do, tried in a process of its own."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys

import pytest

_CONFINED = """
import mmap, os, socket, sys, threading
from abnn_serve.media.isolation.sandbox import Sandbox
sandbox = Sandbox(3)
"""

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}, reason="needs seccomp"
)


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _CONFINED + code], capture_output=True, text=True, check=False)


@needs_linux
def test_files_processes_threads_and_executable_memory_are_denied():
    trials = {
        "open('/etc/passwd')": "EPERM",
        "open('/tmp/written', 'w')": "EPERM",
        "os.listdir('/')": "EPERM",
        "os.unlink('/tmp/written')": "EPERM",
        "os.kill(os.getppid(), 0)": "EPERM",
        "os.dup(0)": "EPERM",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)": "EPERM",
        "os.setpriority(os.PRIO_PROCESS, 0, 5)": "EPERM",
    }
    code = "import errno\n"
    for trial in trials:
        code += f"try:\n    {trial}\n    print('allowed')\nexcept OSError as e:\n    print(errno.errorcode[e.errno])\n"
    code += "try:\n    threading.Thread(target=print).start()\nexcept RuntimeError:\n    print('no thread')\n"
    result = _run(code)
    assert result.stdout.split() == [*trials.values(), "no", "thread"], result.stderr


@needs_linux
@pytest.mark.parametrize("attack", ["socket.socket()", "os.execv('/bin/true', ['true'])"])
def test_a_socket_or_a_program_kills_the_process(attack):
    assert _run(attack).returncode == -signal.SIGSYS


@needs_linux
def test_without_seccomp_and_landlock_no_file_or_socket_can_be_opened_either():
    code = """
import abnn_serve.media.isolation.sandbox as module
module.give_up_files = module.filter_system_calls = lambda: False
sandbox = module.Sandbox(3)
print(*sandbox.mechanisms)
for call in (lambda: open('/etc/passwd'), lambda: socket.socket()):
    try:
        call()
    except OSError as error:
        print(error.errno)
"""
    alone = subprocess.run(
        [sys.executable, "-c", "import socket\n" + code], capture_output=True, text=True, check=True
    ).stdout
    assert alone.split() == ["rlimits", "24", "24"]


@needs_linux
def test_memory_and_processor_time_beyond_the_limits_fail_and_kill():
    code = (
        "sandbox.limit_task(50_000_000, 0)\ntry:\n    bytearray(200_000_000)\nexcept MemoryError:\n    print('full')\n"
    )
    result = _run(code + "while True:\n    pass")
    assert result.stdout == "full\n" or result.stdout == ""
    assert result.returncode == -signal.SIGXCPU


@needs_linux
def test_this_machine_offers_seccomp():
    assert "seccomp" in _run("print(sandbox.mechanisms)").stdout
