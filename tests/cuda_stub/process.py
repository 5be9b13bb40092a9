"""A process over the stub: `Stub.ask` runs one function of `probe` in it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_LIBC = ctypes.CDLL(None)
_ADDR_NO_RANDOMIZE = 0x0040000  # of personality(2)


@dataclass(frozen=True)
class Stub:
    """The folder of the libraries, and additional environment variables of the process."""

    libraries: Path
    environ: dict[str, str] = field(default_factory=dict)

    def ask(self, question: str, *files: Path | str, **environ: str) -> Any:
        """Result of `probe.<question>(*files)` in a new process; AssertionError if it raises."""
        command = [sys.executable, "-m", "tests.cuda_stub.probe", question, *map(str, files)]
        done = subprocess.run(
            command,
            env={**os.environ, "LD_LIBRARY_PATH": str(self.libraries), **self.environ, **environ},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_fix_addresses,  # one system call
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def _fix_addresses() -> None:
    """Load libraries at the same addresses in every process: how much memory ONNX Runtime takes depends on them."""
    _LIBC.personality(_ADDR_NO_RANDOMIZE)
