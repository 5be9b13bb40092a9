"""abnn bench: run one of the checkout's benchmarks by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.cli.extras import require_lab
from abnn_serve.errors import ConfigError

_CHECKOUT = Path(__file__).parents[2]


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="benchmark, such as latency")],
) -> None:
    """Run a benchmark of the checkout.

    Arguments after NAME are passed on; `abnn bench NAME -- --help` lists them. Installed packages have no benchmarks.

    Example: abnn bench latency --quick
    """
    names = sorted(path.stem for path in (_CHECKOUT / "benchmarks").glob("*.py") if _has_main(path))
    if not names:
        raise ConfigError(f"no benchmarks in {_CHECKOUT}; run abnn from a checkout of the project")
    if name not in names:
        raise ConfigError(f"no benchmark named {name!r}, expected one of {', '.join(names)}")
    require_lab()
    path = os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH")]))
    # -P: else a folder `benchmarks` in the working directory would come first
    command = [sys.executable, "-P", "-m", f"benchmarks.{name}", *context.args]
    raise typer.Exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode)  # noqa: S603


def _has_main(path: Path) -> bool:
    return "\ndef main(" in path.read_text()
