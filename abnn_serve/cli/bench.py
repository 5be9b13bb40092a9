"""abnn bench: the benchmarks of the checkout, by name."""

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
    name: Annotated[str, typer.Argument(help="a file of benchmarks/, such as latency")],
) -> None:
    """Run a benchmark with the arguments that follow its name; `-- --help` after it lists them. Needs a checkout.

    Example: abnn bench latency --quick
    """
    folder = _CHECKOUT / "benchmarks"
    known = sorted(path.stem for path in folder.glob("*.py"))
    if not known:
        raise ConfigError(
            f"no benchmarks in {_CHECKOUT}: they come with a checkout of the project, not with an install"
        )
    if name not in known:
        raise ConfigError(f"no benchmark named {name!r}, expected one of {', '.join(known)}")
    require_lab()
    path = os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(folder / f"{name}.py"), *context.args]
    raise typer.Exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode)  # noqa: S603
