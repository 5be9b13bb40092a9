"""A process over the stub: `Stub.ask` runs one function of `probe` in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


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
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])
