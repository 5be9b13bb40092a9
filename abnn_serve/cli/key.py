"""abnn key: a new API key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="who will use it; the log names it")],
    file: Annotated[Path, typer.Option(help="key file to add it to; ABNN_API_KEY_FILE of the service")],
) -> None:
    """Make an API key, print it once, and add its hash to the key file; a service that runs takes it up.

    Example: abnn key alice --file keys.txt
    """
    from abnn_serve.service.auth import new_key

    made, line = new_key(name)
    with file.open("a") as out:
        out.write(f"{line}\n")
    file.chmod(0o600)
    typer.echo(made)
